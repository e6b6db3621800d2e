// SPDX-License-Identifier: Apache-2.0
// mbarriers, bulk copies and the proxy fence.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

// ---- mbarriers without copies: the first warp waits for all threads of the block, phase by phase.

enum class MbarMistake { none, no_wait, wrong_parity, too_few_arrivals, init_not_shown };

template <MbarMistake kMistake>
EP_DEVICE void gather_phases(Test& test) {
  EP_SHARED(dev::Mbarrier, full, [1]);
  EP_SHARED(uint32_t, words, [1024]);
  const uint32_t me = dev::thread_idx(), n = dev::num_threads();
  if (me == 0) {
    dev::mbar_init(&full[0], n);
    dev::fence_mbar_init();
  }
  if (kMistake != MbarMistake::init_not_shown) dev::sync_block();
  for (uint32_t phase = 0; phase < 4; ++phase) {
    words[me] = scramble(me + phase);
    const bool forgets = kMistake == MbarMistake::too_few_arrivals && phase == 2 && me == 1;
    if (!forgets) dev::mbar_arrive(&full[0]);
    if (dev::warp_idx() == 0) {
      const uint32_t parity = (phase + (kMistake == MbarMistake::wrong_parity)) % 2;
      if (kMistake != MbarMistake::no_wait) dev::mbar_wait(&full[0], parity);
      for (uint32_t i = dev::lane_idx(); i < n; i += 32) EXPECT(words[i] == scramble(i + phase));
    }
    dev::sync_block();
  }
  if (me == 0) dev::mbar_inval(&full[0]);
}

LITMUS(mbar_phases) { gather_phases<MbarMistake::none>(test); }
LITMUS(mbar_not_awaited) { gather_phases<MbarMistake::no_wait>(test); }
LITMUS(mbar_wrong_parity) { gather_phases<MbarMistake::wrong_parity>(test); }
LITMUS(mbar_too_few_arrivals) { gather_phases<MbarMistake::too_few_arrivals>(test); }
LITMUS(mbar_init_not_shown) { gather_phases<MbarMistake::init_not_shown>(test); }

// ---- bulk loads

constexpr uint32_t kCopyWords = 256, kCopyBytes = 4 * kCopyWords;

// Something to load: filled by an earlier launch, as a kernel's input would be.
LITMUS(fill_input) {
  const uint32_t me = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  for (uint32_t i = me; i < 16384; i += dev::num_blocks() * dev::num_threads()) {
    *test.data(args.rank, i) = scramble(i);
  }
  EXPECT(true);
}

enum class LoadMistake { none, no_wait, no_mbar_fence, stage_reused };

// One thread loads a piece a round into one of two stages; the whole block reads it.
template <LoadMistake kMistake>
EP_DEVICE void load_pieces(Test& test) {
  constexpr uint32_t kStages = 2, kPieces = 8;
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(dev::Mbarrier, full, [kStages]);
  uint32_t* stage = reinterpret_cast<uint32_t*>(shared);
  const uint32_t me = dev::thread_idx();
  if (me == 0) {
    for (uint32_t i = 0; i < kStages; ++i) dev::mbar_init(&full[i], 1);
    if (kMistake != LoadMistake::no_mbar_fence) dev::fence_mbar_init();
  }
  dev::sync_block();
  const auto load = [&](uint32_t piece) {
    if (me != 0 || piece >= kPieces) return;
    dev::Mbarrier* bar = &full[piece % kStages];
    dev::mbar_arrive_expect_tx(bar, kCopyBytes);
    dev::bulk_load(stage + piece % kStages * kCopyWords, test.data(test.args.rank, piece * kCopyWords), kCopyBytes,
                   bar);
  };
  load(0);
  load(1);
  for (uint32_t piece = 0; piece < kPieces; ++piece) {
    if (kMistake != LoadMistake::no_wait) dev::mbar_wait(&full[piece % kStages], piece / kStages % 2);
    for (uint32_t i = me; i < kCopyWords; i += dev::num_threads()) {
      EXPECT(stage[piece % kStages * kCopyWords + i] == scramble(piece * kCopyWords + i));
    }
    if (kMistake != LoadMistake::stage_reused) dev::sync_block();
    load(piece + kStages);
  }
}

LITMUS(bulk_load) { load_pieces<LoadMistake::none>(test); }
LITMUS(bulk_load_not_awaited) { load_pieces<LoadMistake::no_wait>(test); }
LITMUS(bulk_load_mbar_not_fenced) { load_pieces<LoadMistake::no_mbar_fence>(test); }
LITMUS(bulk_load_into_stage_in_use) { load_pieces<LoadMistake::stage_reused>(test); }

// ---- bulk stores: a warp fills shared memory, one lane stores it to the peer and raises a flag.

enum class StoreMistake {
  none,
  no_proxy_fence,
  fence_before_writing,
  source_reused,
  flag_after_read_wait,
  one_group_too_many,
  leaves_unread
};

template <StoreMistake kMistake>
EP_DEVICE void store_pieces(Test& test) {
  constexpr uint32_t kPieces = 6;
  EP_DYNAMIC_SHARED(shared);
  uint32_t* source = reinterpret_cast<uint32_t*>(shared);
  const uint32_t lane = dev::lane_idx();
  uint32_t* flag = test.flag(1);
  if (dev::warp_idx() != 0) return;
  if (test.args.rank == 1) {
    for (uint32_t piece = 0; piece < kPieces; ++piece) {
      if (lane == 0) AWAIT(dev::ld_acquire<dev::Scope::system>(flag) > piece);
      dev::sync_warp();
      for (uint32_t i = lane; i < kCopyWords; i += 32) {
        EXPECT(*test.data(1, piece * kCopyWords + i) == scramble(piece * kCopyWords + i));
      }
    }
    return;
  }
  for (uint32_t piece = 0; piece < kPieces; ++piece) {
    if (kMistake == StoreMistake::fence_before_writing) dev::fence_proxy_async();
    for (uint32_t i = lane; i < kCopyWords; i += 32) source[i] = scramble(piece * kCopyWords + i);
    if (kMistake != StoreMistake::no_proxy_fence && kMistake != StoreMistake::fence_before_writing) {
      dev::fence_proxy_async();
    }
    dev::sync_warp();
    if (lane == 0) {
      dev::bulk_store(test.data(1, piece * kCopyWords), source, kCopyBytes);
      dev::bulk_commit();
      if (kMistake == StoreMistake::flag_after_read_wait) {
        dev::bulk_wait_read<0>();
      } else if (kMistake == StoreMistake::one_group_too_many) {
        dev::bulk_wait_read<0>();
        dev::bulk_wait<1>();
      } else if (kMistake != StoreMistake::source_reused && kMistake != StoreMistake::leaves_unread) {
        dev::bulk_wait<0>();
      }
      if (kMistake != StoreMistake::source_reused) dev::st_release<dev::Scope::system>(flag, piece + 1);
    }
    dev::sync_warp();
    if (kMistake == StoreMistake::leaves_unread) return;
  }
  if (lane == 0) dev::bulk_wait<0>();
}

LITMUS(bulk_store) { store_pieces<StoreMistake::none>(test); }
LITMUS(bulk_store_no_proxy_fence) { store_pieces<StoreMistake::no_proxy_fence>(test); }
LITMUS(bulk_store_fence_before_writing) { store_pieces<StoreMistake::fence_before_writing>(test); }
LITMUS(bulk_store_source_reused) { store_pieces<StoreMistake::source_reused>(test); }
LITMUS(bulk_store_flag_after_read_wait) { store_pieces<StoreMistake::flag_after_read_wait>(test); }
LITMUS(bulk_store_one_group_too_many) { store_pieces<StoreMistake::one_group_too_many>(test); }
LITMUS(bulk_store_left_unread) { store_pieces<StoreMistake::leaves_unread>(test); }

// Groups finish in order: with one group allowed to be unfinished, the one before has arrived.
LITMUS(bulk_groups) {
  EP_DYNAMIC_SHARED(shared);
  uint32_t* source = reinterpret_cast<uint32_t*>(shared);
  constexpr uint32_t kPieces = 8;
  if (!test.is(0, 0, 0)) return;
  const auto expect_arrived = [&](uint32_t piece) {
    for (uint32_t i = 0; i < kCopyWords; ++i) {
      EXPECT(*test.data(0, piece * kCopyWords + i) == scramble(piece * kCopyWords + i));
    }
  };
  for (uint32_t piece = 0; piece < kPieces; ++piece) {
    uint32_t* stage = source + piece % 2 * kCopyWords;
    if (piece >= 2) dev::bulk_wait_read<1>();
    for (uint32_t i = 0; i < kCopyWords; ++i) stage[i] = scramble(piece * kCopyWords + i);
    dev::fence_proxy_async();
    dev::bulk_store(test.data(0, piece * kCopyWords), stage, kCopyBytes / 2);
    dev::bulk_store(test.data(0, piece * kCopyWords + kCopyWords / 2), stage + kCopyWords / 2, kCopyBytes / 2);
    dev::bulk_commit();
    dev::bulk_wait<1>();
    if (piece >= 1) expect_arrived(piece - 1);
  }
  dev::bulk_wait<0>();
  expect_arrived(kPieces - 1);
}

// The block's input goes through shared memory to the peer without any thread reading it.
LITMUS(bulk_forward) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(dev::Mbarrier, full, [1]);
  const uint32_t source = 16384 * 2;  // where fill_input does not write
  if (test.is(0, 0, 0)) {
    dev::mbar_init(&full[0], 1);
    dev::fence_mbar_init();
    dev::mbar_arrive_expect_tx(&full[0], kCopyBytes);
    dev::bulk_load(shared, test.data(0), kCopyBytes, &full[0]);
    dev::mbar_wait(&full[0], 0);
    dev::bulk_store(test.data(1, source), shared, kCopyBytes);
    dev::bulk_commit();
    dev::bulk_wait<0>();
    dev::st_release<dev::Scope::system>(test.flag(1), 1u);
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(1)) == 1);
    for (uint32_t i = 0; i < kCopyWords; ++i) EXPECT(*test.data(1, source + i) == scramble(i));
  }
}

// A row that a peer wrote with ordinary stores is acquired and then loaded with a bulk copy.
template <bool kFence>
EP_DEVICE void load_acquired_row(Test& test) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(dev::Mbarrier, full, [1]);
  if (test.is(0, 0, 0)) {
    for (uint32_t i = 0; i < kCopyWords; ++i) dev::st(test.data(1, i), scramble(i));
    dev::st_release<dev::Scope::system>(test.flag(1), 1u);
  }
  if (test.is(1, 0, 0)) {
    dev::mbar_init(&full[0], 1);
    dev::fence_mbar_init();
    AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(1)) == 1);
    if (kFence) dev::fence_proxy_async();
    dev::mbar_arrive_expect_tx(&full[0], kCopyBytes);
    dev::bulk_load(shared, test.data(1), kCopyBytes, &full[0]);
    dev::mbar_wait(&full[0], 0);
    const uint32_t* row = reinterpret_cast<const uint32_t*>(shared);
    for (uint32_t i = 0; i < kCopyWords; ++i) EXPECT(row[i] == scramble(i));
  }
}

LITMUS(bulk_load_of_acquired_row) { load_acquired_row<true>(test); }
LITMUS(bulk_load_of_acquired_row_unfenced) { load_acquired_row<false>(test); }

// ---- a row that went through the async proxy, written by a bulk store and then loaded by a bulk copy

constexpr uint32_t kRelayed = 2 * 16384;  // where fill_input does not write

// Loads a row into the block's shared memory. `parity`: of the mbarrier, which has one arrival.
EP_DEVICE void load_row(unsigned char* shared, const uint32_t* from, dev::Mbarrier* full, uint32_t parity) {
  dev::mbar_arrive_expect_tx(full, kCopyBytes);
  dev::bulk_load(shared, from, kCopyBytes, full);
  dev::mbar_wait(full, parity);
}

// Stores the input's first row where others load it. It has arrived when this returns.
EP_DEVICE void store_row(Test& test, unsigned char* shared, dev::Mbarrier* full, uint32_t* to) {
  load_row(shared, test.data(test.args.rank), full, 0);
  dev::bulk_store(to, shared, kCopyBytes);
  dev::bulk_commit();
  dev::bulk_wait<0>();
}

EP_DEVICE void expect_row(Test& test, const unsigned char* shared) {
  const uint32_t* row = reinterpret_cast<const uint32_t*>(shared);
  for (uint32_t i = 0; i < kCopyWords; ++i) EXPECT(row[i] == scramble(i));
}

// The first block of rank 0 stores a row into the reader's memory, the last block of the last rank loads it. That the
// store has finished shows it to ordinary accesses; other blocks' bulk copies need the reader's fence as well.
enum class RelayFence { none, writer, reader, before_acquiring };

template <RelayFence kFence>
EP_DEVICE void relay_row(Test& test) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(dev::Mbarrier, full, [1]);
  const uint32_t reader_rank = test.args.num_ranks - 1, reader_block = dev::num_blocks() - 1;
  const bool writes = test.is(0, 0, 0), reads = test.is(reader_rank, reader_block, 0);
  uint32_t* row = test.data(reader_rank, kRelayed);
  if (writes || reads) {
    dev::mbar_init(&full[0], 1);
    dev::fence_mbar_init();
  }
  if (writes) {
    store_row(test, shared, &full[0], row);
    if (kFence == RelayFence::writer) dev::fence_proxy_async();
    dev::st_release<dev::Scope::system>(test.flag(reader_rank), 1u);
  }
  if (reads) {
    if (kFence == RelayFence::before_acquiring) dev::fence_proxy_async();
    AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(reader_rank)) == 1);
    if (kFence == RelayFence::reader) dev::fence_proxy_async();
    load_row(shared, row, &full[0], 0);
    expect_row(test, shared);
  }
}

LITMUS(bulk_relay) { relay_row<RelayFence::reader>(test); }
LITMUS(bulk_relay_unfenced) { relay_row<RelayFence::none>(test); }
LITMUS(bulk_relay_fenced_by_writer) { relay_row<RelayFence::writer>(test); }
LITMUS(bulk_relay_fenced_before_acquiring) { relay_row<RelayFence::before_acquiring>(test); }

// A block's own bulk stores are there for its bulk loads, whichever threads issue them.
LITMUS(bulk_load_of_own_store) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(dev::Mbarrier, full, [1]);
  uint32_t* row = test.data(args.rank, kRelayed + dev::block_idx() * kCopyWords);
  if (dev::thread_idx() == 0) {
    dev::mbar_init(&full[0], 1);
    dev::fence_mbar_init();
    store_row(test, shared, &full[0], row);
  }
  dev::sync_block();
  if (dev::thread_idx() == 32) {
    load_row(shared + kCopyBytes, row, &full[0], 1);
    expect_row(test, shared + kCopyBytes);
  }
}

}  // namespace nccl_ep::litmus
