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

// Adds up the bytes [offset, offset + bytes) of some rows and calls put(at, pack) for each pack, `at` from 0 on. A few packs
// of a few rows are on their way at a time.
template <DType kDType, bool kNested, uint32_t kPacks, class Put>
EP_DEVICE void add_up(const Addend* addends, uint32_t num_addends, uint32_t offset, uint32_t bytes, Put put) {
  constexpr uint32_t kRows = 4, kStrip = 16 * 32;
#pragma unroll 1
  for (uint32_t begin = 16 * dev::lane_idx(); begin < bytes; begin += kPacks * kStrip) {
    PackSum<kDType, kPacks> total, sum;
#pragma unroll 1
    for (uint32_t first = 0; first < num_addends; first += kRows) {
      Pack packs[kRows][kPacks];
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
        const unsigned char* row = addends[first + r < num_addends ? first + r : first].row + offset;
#pragma unroll
        for (uint32_t p = 0; p < kPacks; ++p) {
          const uint32_t at = begin + p * kStrip < bytes ? begin + p * kStrip : begin;
          packs[r][p] = dev::ld(reinterpret_cast<const Pack*>(row + at));
        }
      }
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) {
        if (first + r >= num_addends) break;
        if constexpr (kNested) {
          sum.add(packs[r]);
          if (!addends[first + r].ends_sum) continue;
          sum.round(packs[r]);
          sum.is_empty = true;
        }
        total.add(packs[r]);
      }
    }
    Pack packs[kPacks];
    total.round(packs);
#pragma unroll
    for (uint32_t p = 0; p < kPacks; ++p) {
      if (begin + p * kStrip < bytes) put(begin + p * kStrip, packs[p]);
    }
  }
}

// Pushes the results for a peer's tokens. The lanes look up the warp's next 32 rows.
template <bool kExpertMajor, DType kDType>
EP_DEVICE void push_to(const Operation& op, const HtCombineArgs& args, const PushTeam& team, uint32_t peer,
                       Mover& mover, Addend* addends) {
  const HtGroupState& group = op.group;
  const Rows to = rows_of(group.window.at<void>(peer, group.layout.row_at(0)), group.layout.row_bytes);
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  const uint32_t end = *args.handle.source(peer + 1);
  for (uint32_t first = *args.handle.source(peer) + team.worker; first < end; first += 32 * team.num_workers) {
    const uint32_t row = first + dev::lane_idx() * team.num_workers;
    const ReceivedRow mine = row < end ? look_up_row(args.handle, row, peer) : ReceivedRow{};
    for (uint32_t left = dev::ballot(mine.exists); left; left &= left - 1) {
      const ReceivedRow it = mine.from_lane(dev::find_first(left));
      const uint32_t slot = static_cast<uint32_t>(group.layout.home_slot(it.home.token, it.home.dest));
      uint32_t* flag = group.window.at<uint32_t>(peer, group.layout.flag_at(slot));
      if (!kExpertMajor || it.home.num_hits == 1) {
        const unsigned char* source = from.at(kExpertMajor ? it.first_hits[0] : it.row);
        mover.move(source, to, 1, [&](uint32_t) { return slot; }, flag);
        continue;
      }
      dev::sync_warp();  // the addends are about to be replaced
      for (uint32_t i = dev::lane_idx(); i < it.home.num_hits; i += 32) {
        addends[i] = {from.at(*args.handle.hit(it.row, i)), i + 1 == it.home.num_hits};
      }
      dev::sync_warp();
      const auto make = [&](unsigned char* stage, uint32_t offset, uint32_t bytes) {
        add_up<kDType, false, 2>(addends, it.home.num_hits, offset, bytes, [&](uint32_t at, const Pack& pack) {
          dev::st(reinterpret_cast<Pack*>(stage + at), pack);
        });
      };
      mover.make(to, slot, make, flag);
    }
  }
  mover.drain(to);
}

template <bool kExpertMajor, DType kDType>
EP_DEVICE void push_results(const Operation& op, const HtCombineArgs& args, Mover& mover, Addend* addends) {
  const PushTeam team(op.group.num_ranks, args.move.push_warps);
  for (uint32_t i = team.first_peer; i + 1 < op.group.num_ranks; i += team.num_teams) {
    const uint32_t peer = peer_of(op.group, i);
    if (!dev::all(op.await_peer(peer))) return;
    push_to<kExpertMajor, kDType>(op, args, team, peer, mover, addends);
  }
}

// Lists what is added up for a token, in the order of the ranks, as soon as it is there: what has arrived, and what this
// rank has itself. Returns how many rows there are; false in `ok`: something did not come.
template <bool kExpertMajor>
EP_DEVICE uint32_t list_results(const Operation& op, const HtCombineArgs& args, uint32_t token, Addend* addends,
                                bool& ok) {
  const HtGroupState& group = op.group;
  const Rows arrived = rows_of(group.window.at<void>(group.rank, group.layout.row_at(0)), group.layout.row_bytes);
  const Rows own = rows_of(args.tokens, args.move.row_bytes);
  const uint32_t num_dests = *args.handle.num_dests(token);
  uint32_t num_addends = 0;
  dev::sync_warp();  // the addends are about to be replaced
  for (uint32_t first = 0; first < num_dests; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    const bool exists = i < num_dests;
    const HtDest dest = exists ? dev::ld(args.handle.dest(token, i)) : HtDest{};
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

// Adds up the results of this rank's tokens. A token without experts gets zeros.
template <bool kExpertMajor, DType kDType>
EP_DEVICE void collect_results(const Operation& op, const HtCombineArgs& args, const Crew& crew, Addend* addends) {
  for (uint32_t token = crew.worker(); token < args.num_tokens; token += crew.num_workers()) {
    bool ok = true;
    const uint32_t num_addends = list_results<kExpertMajor>(op, args, token, addends, ok);
    if (!ok) return;
    unsigned char* out = args.out_tokens + uint64_t{token} * args.move.row_bytes;
    add_up<kDType, kExpertMajor, kExpertMajor ? 2 : 4>(
        addends, num_addends, 0, args.move.row_bytes,
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
  const Operation op{{args.group, start.epoch}};
  const Crew pushers{0, args.move.push_warps},
      collectors{args.move.push_warps, dev::num_warps() - args.move.push_warps};
  if (start.ready) {
    Addend* warp_addends = addends[dev::warp_idx()];
    if (pushers.has_me()) {
      Mover mover(args.move, op.epoch, shared, dev::warp_idx());
      push_results<kExpertMajor, kDType>(op, args, mover, warp_addends);
      mover.close();
    } else {
      if (args.topk_weights && await_peers(op)) {
        send_gradients<kExpertMajor>(op, args, collectors);
        collect_gradients(op, args, collectors);
      }
      collect_results<kExpertMajor, kDType>(op, args, collectors, warp_addends);
    }
  }
  finish(op);
}

}  // namespace nccl_ep::ht
