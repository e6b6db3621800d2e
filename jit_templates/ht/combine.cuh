// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine: every row's result back to its home rank and added up there, in one launch.
//
// Parties: of each block some warps push results to one home rank, expert-major the sum of a row's slots; some wait for the
// results of this rank's tokens and add them in the order of the ranks, in fp32; the others move the weights' gradients in
// the backward pass. What a rank has for its own tokens is read where it lies. Each sum has a fixed order and is rounded
// once, so results are bit-reproducible. Memory: the home ranks' windows. Waits: for peers to start, for rows to arrive.
#pragma once

#include "device/numeric.hpp"
#include "ht/parties.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

constexpr uint32_t kMoveWarps = kHtMoveThreads / 32;

// Rows that are added up for one token, in a warp's shared memory: sums of sums, each rounded.
struct Addend {
  const unsigned char* row;
  uint32_t ends_sum;
};

// A sum of packs, with as many addends as there are.
template <DType kDType>
struct PackSum {
  using Word = WordOf<kDType>;
  float value[4][Word::kSize];
  bool is_empty = true;

  EP_DEVICE void add(const Pack& pack) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float more[Word::kSize];
      Word::unpack(pack.word[i], more);
#pragma unroll
      for (int j = 0; j < Word::kSize; ++j) value[i][j] = is_empty ? more[j] : dev::add(value[i][j], more[j]);
    }
    is_empty = false;
  }
  EP_DEVICE Pack rounded() const {
    Pack pack{};
    if (is_empty) return pack;
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) pack.word[i] = Word::pack(value[i]);
    return pack;
  }
};

// Adds up the bytes [offset, offset + bytes) of some rows and calls put(at, pack) for each pack, `at` from 0 on.
template <DType kDType, class Put>
EP_DEVICE void add_up(const Addend* addends, uint32_t num_addends, uint32_t offset, uint32_t bytes, Put put) {
  for (uint32_t at = 16 * dev::lane_idx(); at < bytes; at += 16 * 32) {
    PackSum<kDType> total, sum;
#pragma unroll 4
    for (uint32_t i = 0; i < num_addends; ++i) {
      sum.add(dev::ld(reinterpret_cast<const Pack*>(addends[i].row + offset + at)));
      if (!addends[i].ends_sum) continue;
      total.add(sum.rounded());
      sum.is_empty = true;
    }
    put(at, total.rounded());
  }
}

// Lists a row's slots as one sum behind the addends before. All lanes call it; the warp meets before they are used.
template <bool kExpertMajor>
EP_DEVICE uint32_t list_slots(const HtCombineArgs& args, uint32_t row, uint32_t num_hits, Addend* addends) {
  const Rows rows = rows_of(args.tokens, args.move.row_bytes);
  if constexpr (!kExpertMajor) {
    if (dev::lane_idx() == 0) addends[0] = {rows.at(row), 1};
    return 1;
  }
  for (uint32_t i = dev::lane_idx(); i < num_hits; i += 32) {
    addends[i] = {rows.at(*args.handle.hit(row, i)), i + 1 == num_hits};
  }
  return num_hits;
}

// Pushes the results for a peer's tokens.
template <bool kExpertMajor, DType kDType>
EP_DEVICE void push_to(const Operation& op, const HtCombineArgs& args, const PushTeam& team, uint32_t peer,
                       Mover& mover, Addend* addends) {
  const HtGroupState& group = op.group;
  const Rows to = rows_of(group.window.at<void>(peer, group.layout.row_at(0)), group.layout.row_bytes);
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  const uint32_t end = *args.handle.source(peer + 1);
  for (uint32_t row = *args.handle.source(peer) + team.worker; row < end; row += team.num_workers) {
    const HtHome home = dev::ld(args.handle.home(row));
    const uint32_t slot = static_cast<uint32_t>(group.layout.home_slot(home.token, home.dest));
    uint32_t* flag = group.window.at<uint32_t>(peer, group.layout.flag_at(slot));
    if (!kExpertMajor || home.num_hits == 1) {
      const uint32_t source = kExpertMajor ? *args.handle.hit(row, 0) : row;
      mover.move(from.at(source), to, 1, [&](uint32_t) { return slot; }, flag);
      continue;
    }
    dev::sync_warp();  // the addends are about to be replaced
    const uint32_t num_addends = list_slots<kExpertMajor>(args, row, home.num_hits, addends);
    dev::sync_warp();
    mover.make(
        to, slot,
        [&](unsigned char* stage, uint32_t offset, uint32_t bytes) {
          add_up<kDType>(addends, num_addends, offset, bytes,
                         [&](uint32_t at, const Pack& pack) { dev::st(reinterpret_cast<Pack*>(stage + at), pack); });
        },
        flag);
  }
  mover.drain(to);
}

template <bool kExpertMajor, DType kDType>
EP_DEVICE void push_results(const Operation& op, const HtCombineArgs& args, Mover& mover, Addend* addends) {
  const PushTeam team(op.group.num_ranks, args.move.push_warps);
  for (uint32_t i = team.first_peer; i + 1 < op.group.num_ranks; i += team.num_teams) {
    const uint32_t peer = op.peer_of(i);
    if (!dev::all(op.await_peer(peer))) return;
    push_to<kExpertMajor, kDType>(op, args, team, peer, mover, addends);
  }
}

// Adds up the results of this rank's tokens. A token without experts gets zeros.
template <bool kExpertMajor, DType kDType>
EP_DEVICE void collect_results(const Operation& op, const HtCombineArgs& args, const Crew& crew, Addend* addends) {
  const HtGroupState& group = op.group;
  const Rows arrived = rows_of(group.window.at<void>(group.rank, group.layout.row_at(0)), group.layout.row_bytes);
  for (uint32_t token = crew.worker(); token < args.num_tokens; token += crew.num_workers()) {
    uint32_t num_addends = 0;
    dev::sync_warp();  // the addends are about to be replaced
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      if (dest.rank == group.rank) {
        num_addends += list_slots<kExpertMajor>(args, dest.row, dest.num_hits, addends + num_addends);
        continue;
      }
      const uint64_t slot = group.layout.home_slot(token, i);
      if (!await_row(op, {Wait::combine_row, dest.rank, token}, slot)) return;
      if (dev::lane_idx() == 0) addends[num_addends] = {arrived.at(slot), 1};
      ++num_addends;
    }
    dev::sync_warp();
    unsigned char* out = args.out_tokens + uint64_t{token} * args.move.row_bytes;
    add_up<kDType>(addends, num_addends, 0, args.move.row_bytes,
                   [&](uint32_t at, const Pack& pack) { dev::st(reinterpret_cast<Pack*>(out + at), pack); });
  }
}

// Backward: sends the gradients of the weights of this rank's rows home.
template <bool kExpertMajor>
EP_DEVICE void send_gradients(const Operation& op, const HtCombineArgs& args, const Crew& crew) {
  const HtGroupState& group = op.group;
  const uint32_t num_rows = args.handle.totals()->num_rows;
  for (uint32_t row = crew.worker(); row < num_rows; row += crew.num_workers()) {
    const HtHome home = dev::ld(args.handle.home(row));
    const auto get = [&](uint32_t i) {
      return dev::ld_nc(args.topk_weights +
                        (kExpertMajor ? *args.handle.hit(row, i) : uint64_t{row} * args.num_topk + i));
    };
    send_floats(op, home.source, group.layout.home_slot(home.token, home.dest), home.num_hits, get);
  }
}

// Backward: the gradients of this rank's tokens, at the places of their experts; zero where there is none.
EP_DEVICE void collect_gradients(const Operation& op, const HtCombineArgs& args, const Crew& crew) {
  EP_SHARED(float, staged, [kMoveWarps][kHtMaxTopk]);
  float* gradients = staged[dev::warp_idx()];
  for (uint32_t token = crew.worker(); token < args.num_tokens; token += crew.num_workers()) {
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; i < num_dests; ++i) {
      const HtDest dest = dev::ld(args.handle.dest(token, i));
      const bool ok =
          receive_floats(op, {Wait::row_weights, dest.rank, token}, op.group.layout.home_slot(token, i), dest.num_hits,
                         [&](uint32_t j, float value) { gradients[dest.first_hit + j] = value; });
      if (!ok) return;
    }
    dev::sync_warp();
    float* out = args.out_topk_weights + uint64_t{token} * args.num_topk;
    for (uint32_t k = dev::lane_idx(); k < args.num_topk; k += 32) {
      const uint8_t hit = *args.handle.place(token, k);
      out[k] = hit == HtHandleLayout::kNoHit ? 0 : gradients[hit];
    }
    dev::sync_warp();  // the gradients are about to be replaced
  }
}

template <bool kExpertMajor, DType kDType>
EP_DEVICE void combine(const HtCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kMoveWarps][kHtMaxTopk]);
  const Start start = begin(args.group);
  const Operation op{args.group, start.epoch};
  const Crew pushers{0, args.move.push_warps}, collectors{args.move.push_warps, args.move.local_warps};
  const uint32_t num_busy = args.move.push_warps + args.move.local_warps;
  const Crew others{num_busy, dev::num_warps() - num_busy};
  if (start.ready) {
    Addend* warp_addends = addends[dev::warp_idx()];
    if (pushers.has_me()) {
      Mover mover(args.move, op.epoch, shared, dev::warp_idx());
      push_results<kExpertMajor, kDType>(op, args, mover, warp_addends);
      mover.close();
    }
    if (collectors.has_me()) collect_results<kExpertMajor, kDType>(op, args, collectors, warp_addends);
    if (others.has_me() && args.topk_weights && await_peers(op)) {
      send_gradients<kExpertMajor>(op, args, others);
      collect_gradients(op, args, others);
    }
  }
  finish(op);
}

}  // namespace nccl_ep::ht
