// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine: every row's result back to its home rank and added up there, in one launch.
//
// Parties: of each block some warps push results to one home rank, expert-major the sum of a row's slots; one raises the
// flags of what has arrived; the others wait for the results of this rank's tokens and add them in the order of the ranks,
// in fp32, and in the backward pass move the weights' gradients first. What a rank has for its own tokens is read where it
// lies. Each sum has a fixed order and is rounded once, so results are bit-reproducible. Memory: the home ranks' windows.
// Waits: for peers to start, for rows to arrive.
#pragma once

#include "device/numeric.hpp"
#include "ht/mover.cuh"
#include "ht/parties.cuh"
#include "ht/tickets.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

// Rows that are added up for one token, in a warp's shared memory: sums of sums, each rounded.
struct Addend {
  const unsigned char* row;
  uint32_t ends_sum;
};

// Some packs of a row, a warp's width apart, as they are added up.
template <DType kDType, uint32_t kPacks>
struct PackSum {
  using Word = WordOf<kDType>;
  float value[kPacks][4][Word::kSize];
  bool is_empty = true;

  EP_DEVICE void add(const Pack (&packs)[kPacks]) {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kPacks; ++i) {
      float more[Word::kSize];
      Word::unpack(packs[i / 4].word[i % 4], more);
#pragma unroll
      for (int j = 0; j < Word::kSize; ++j) {
        float& total = value[i / 4][i % 4][j];
        total = is_empty ? more[j] : dev::add(total, more[j]);
      }
    }
    is_empty = false;
  }
  EP_DEVICE void round(Pack (&packs)[kPacks]) const {
#pragma unroll
    for (uint32_t i = 0; i < 4 * kPacks; ++i) packs[i / 4].word[i % 4] = is_empty ? 0 : Word::pack(value[i / 4][i % 4]);
  }
};

// The sum of some packs of a token's rows, and of the rows of one rank that are rounded before they count.
template <DType kDType, bool kNested, uint32_t kPacks>
struct RowSum {
  static constexpr uint32_t kStrip = 16 * 32;
  PackSum<kDType, kPacks> total, nested;

  // Adds kRows rows, all of them on their way at a time.
  template <uint32_t kRows>
  EP_DEVICE void add(const Addend* addends, uint32_t begin, uint32_t row_bytes) {
    Pack packs[kRows][kPacks];
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
#pragma unroll
      for (uint32_t p = 0; p < kPacks; ++p) {
        const uint32_t at = begin + p * kStrip < row_bytes ? begin + p * kStrip : begin;
        packs[r][p] = dev::ld(reinterpret_cast<const Pack*>(addends[r].row + at));
      }
    }
#pragma unroll
    for (uint32_t r = 0; r < kRows; ++r) {
      if constexpr (kNested) {
        nested.add(packs[r]);
        if (!addends[r].ends_sum) continue;
        nested.round(packs[r]);
        nested.is_empty = true;
      }
      total.add(packs[r]);
    }
  }
};

// Adds up some rows and calls put(at, pack) for each pack of the sum. The whole warp calls it.
template <DType kDType, bool kNested, uint32_t kPacks, class Put>
EP_DEVICE void add_up(const Addend* addends, uint32_t num_addends, uint32_t row_bytes, Put put) {
  using Sum = RowSum<kDType, kNested, kPacks>;
#pragma unroll 1
  for (uint32_t begin = 16 * dev::lane_idx(); begin < row_bytes; begin += kPacks * Sum::kStrip) {
    Sum sum;
    uint32_t first = 0;
#pragma unroll 1
    for (; num_addends - first >= 4; first += 4) sum.template add<4>(addends + first, begin, row_bytes);
    if (num_addends - first == 3) sum.template add<3>(addends + first, begin, row_bytes);
    if (num_addends - first == 2) sum.template add<2>(addends + first, begin, row_bytes);
    if (num_addends - first == 1) sum.template add<1>(addends + first, begin, row_bytes);
    Pack packs[kPacks];
    sum.total.round(packs);
#pragma unroll
    for (uint32_t p = 0; p < kPacks; ++p) {
      const uint32_t at = begin + p * Sum::kStrip;
      if (at < row_bytes) put(at, packs[p]);
    }
  }
}

// Calls push(row, to, flag) for the results that this warp pushes: what it is, its home slot, and the flag there. The lanes
// look them up.
template <class Push>
EP_DEVICE void for_each_result(const Operation& op, const HtCombineArgs& args, Push push) {
  const HtGroupState& group = op.group;
  const auto num_rows = [&](uint32_t peer) { return *args.handle.source(peer + 1) - *args.handle.source(peer); };
  for_each_peer(op, args.move, num_rows, [&](uint32_t peer) {
    const Rows homes = window_rows(group, peer);
    const uint32_t begin = *args.handle.source(peer);
    for_each_ticket(args.move, peer, num_rows(peer), [&](uint32_t first, uint32_t end) {
      const uint32_t row = first + dev::lane_idx();
      const ReceivedRow mine = row < end ? look_up_row(args.handle, begin + row, peer) : ReceivedRow{};
      for (uint32_t i = 0; first + i < end; ++i) {
        const ReceivedRow it = mine.from_lane(i);
        const uint64_t slot = group.layout.home_slot(it.home.token, it.home.dest);
        push(it, homes.at(slot), flag_of(group, peer, slot));
      }
    });
  });
}

// Flat: a row is pushed as it is, by way of shared memory.
EP_DEVICE void push_results(const Operation& op, const HtCombineArgs& args, unsigned char* shared, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  Mover mover(args.move, &queue, shared + dev::warp_idx() * args.move.mover_bytes());
  if (dev::lane_idx() == 0) mover.open();
  for_each_result(op, args, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    if (dev::lane_idx() == 0) mover.move(from.at(it.row), to, flag);
  });
  if (dev::lane_idx() != 0) return;
  mover.drain();
  mover.close();
}

// Expert-major: the sum of a row's slots goes straight from registers to its home slot.
template <DType kDType>
EP_DEVICE void push_sums(const Operation& op, const HtCombineArgs& args, Addend* addends, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  uint32_t num_rows = 0;
  for_each_result(op, args, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    for (uint32_t i = dev::lane_idx(); i < it.home.num_hits; i += 32) {
      addends[i] = {from.at(it.hit(args.handle, i)), i + 1 == it.home.num_hits};
    }
    if (dev::lane_idx() == 0) queue.add(flag, num_rows);
    dev::sync_warp();
    add_up<kDType, false, 4>(addends, it.home.num_hits, args.move.row_bytes,
                             [&](uint32_t at, const Pack& pack) { dev::st(reinterpret_cast<Pack*>(to + at), pack); });
    dev::sync_warp();  // what all lanes have stored is one lane's to publish
    ++num_rows;
    if (dev::lane_idx() == 0) queue.finish(num_rows);
  });
  if (dev::lane_idx() == 0) queue.close();
}

// The ranks that a token went to, the first 32 of them: each lane has one.
struct TokenDests {
  uint32_t count;
  HtDest mine;
};

EP_DEVICE TokenDests load_dests(const HtCombineArgs& args, uint32_t token, uint32_t first = 0) {
  if (token >= args.num_tokens) return {};
  TokenDests dests{*args.handle.num_dests(token), {}};
  const uint32_t i = first + dev::lane_idx();
  if (i < dests.count) dests.mine = dev::ld(args.handle.dest(token, i));
  return dests;
}

// Lists what is added up for a token, in the order of the ranks, as soon as it is there: what has arrived, and what this
// rank has itself. Returns how many rows there are; false in `ok`: something did not come.
template <bool kExpertMajor>
EP_DEVICE uint32_t list_results(const Operation& op, const HtCombineArgs& args, uint32_t token, TokenDests dests,
                                Addend* addends, bool& ok) {
  const HtGroupState& group = op.group;
  const Rows arrived = window_rows(group, group.rank), own = rows_of(args.tokens, args.move.row_bytes);
  uint32_t num_addends = 0;
  dev::sync_warp();  // the addends are about to be replaced
  for (uint32_t first = 0; first < dests.count; first += 32) {
    if (first > 0) dests = load_dests(args, token, first);
    const uint32_t i = first + dev::lane_idx();
    const bool exists = i < dests.count;
    const HtDest& dest = dests.mine;
    const bool is_own = exists && dest.rank == group.rank;
    const uint64_t slot = group.layout.home_slot(token, exists ? i : 0);
    const uint32_t count = !exists ? 0 : kExpertMajor && is_own ? dest.num_hits : 1;
    const uint32_t end = num_addends + scan_warp(count);
    if (!await_rows(op, {Wait::combine_row, dest.rank, token}, exists && !is_own, slot)) {
      ok = false;
      return 0;
    }
    for (uint32_t j = 0; j < count; ++j) {
      const uint32_t row = kExpertMajor && is_own ? *args.handle.hit(dest.row, j) : dest.row;
      addends[end - count + j] = {is_own ? own.at(row) : arrived.at(slot), j + 1 == count};
    }
    num_addends = dev::shfl(end, 31);
  }
  dev::sync_warp();
  return num_addends;
}

// Adds up the results of this rank's tokens. A token without experts gets zeros. While one is summed the next is looked up.
template <bool kExpertMajor, DType kDType>
EP_DEVICE void collect_results(const Operation& op, const HtCombineArgs& args, const Crew& crew, Addend* addends) {
  TokenDests next = load_dests(args, crew.worker());
  for (uint32_t token = crew.worker(); token < args.num_tokens; token += crew.num_workers()) {
    const TokenDests dests = next;
    next = load_dests(args, token + crew.num_workers());
    bool ok = true;
    const uint32_t num_addends = list_results<kExpertMajor>(op, args, token, dests, addends, ok);
    if (!ok) return;
    unsigned char* out = args.out_tokens + uint64_t{token} * args.move.row_bytes;
    add_up<kDType, kExpertMajor, kExpertMajor ? 2 : 4>(
        addends, num_addends, args.move.row_bytes,
        [&](uint32_t at, const Pack& pack) { dev::st(reinterpret_cast<Pack*>(out + at), pack); });
  }
}

// Backward: sends the gradients of the weights of this rank's rows home: a lane for each row.
template <bool kExpertMajor>
EP_DEVICE void send_gradients(const Operation& op, const HtCombineArgs& args, const Crew& crew) {
  const HtGroupState& group = op.group;
  const uint32_t num_rows = args.handle.totals()->num_rows;
  for (uint32_t row = crew.thread(); row < num_rows; row += crew.num_threads()) {
    const HtHome home = dev::ld(args.handle.home(row));
    const auto get = [&](uint32_t i) {
      return dev::ld_nc(args.topk_weights +
                        (kExpertMajor ? *args.handle.hit(row, i) : uint64_t{row} * args.num_topk + i));
    };
    send_floats(op, home.source, group.layout.home_slot(home.token, home.dest), home.num_hits, get);
  }
}

// Backward: the gradients of this rank's tokens, at the places of their experts; zero where there is none. A lane for each
// token.
EP_DEVICE void collect_gradients(const Operation& op, const HtCombineArgs& args, const Crew& crew) {
  for (uint32_t token = crew.thread(); token < args.num_tokens; token += crew.num_threads()) {
    float* out = args.out_topk_weights + uint64_t{token} * args.num_topk;
    const uint8_t* places = args.handle.place(token, 0);
    for (uint32_t k = 0; k < args.num_topk; ++k) {
      if (places[k] == HtHandleLayout::kNoHit) out[k] = 0;
    }
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      const auto put = [&](uint32_t j, float gradient) {
        for (uint32_t k = 0; k < args.num_topk; ++k) {
          if (places[k] == dest.first_hit + j) out[k] = gradient;
        }
      };
      const uint64_t slot = op.group.layout.home_slot(token, i);
      if (!receive_floats(op, {Wait::row_weights, dest.rank, token}, slot, dest.num_hits, put)) return;
    }
  }
}

template <bool kExpertMajor, DType kDType>
EP_DEVICE void combine(const HtCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kMoveWarps][kHtMaxTopk]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const Start start = begin(args.group);
  const Operation op{{args.group, start.epoch}};
  const Crews crews(args.move, true);
  Addend* warp_addends = addends[dev::warp_idx()];
  if (start.ready) {
    if (crews.pushers.has_me()) {
      FlagQueue& queue = queues[dev::warp_idx()];
      if constexpr (kExpertMajor) {
        push_sums<kDType>(op, args, warp_addends, queue);
      } else {
        push_results(op, args, shared, queue);
      }
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    } else if (crews.receivers.has_me()) {
      if (args.topk_weights && await_peers(op)) {
        send_gradients<kExpertMajor>(op, args, crews.receivers);
        collect_gradients(op, args, crews.receivers);
      }
      collect_results<kExpertMajor, kDType>(op, args, crews.receivers, warp_addends);
    }
  }
  finish_pushing(op, args.move);
}

}  // namespace nccl_ep::ht
