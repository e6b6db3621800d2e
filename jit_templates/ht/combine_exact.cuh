// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine of a group with exact_combine: every expert's row travels home and is added up there, in one
// launch.
//
// Parties: as in combine.cuh, expert-major. But a row's slots are pushed as they are, through stages, each to a home slot of
// its own: the one with the number of the hit among all of the token's. The receiving warps add them up in the order of the
// top-k, in fp32, and round once: so sums do not depend on where the experts are. What is this rank's is read where it lies.
// In the backward pass the weights' gradients come the same way as ever. Memory: the home ranks' windows. Waits: for peers to
// start, for rows to arrive.
#pragma once

#include "ht/combine.cuh"

namespace nccl_ep::ht {

// One LSA team, where a token has home slots for its hits instead of the ranks that it goes to.
template <Peers kPeers>
struct NoOthersExact : NoOthers<kPeers> {
  EP_DEVICE static uint64_t home_slot(const HtGroupState& group, uint32_t token, uint32_t, const HtDest& dest) {
    return group.layout.home_slot(token, dest.hits.first);
  }
};

// Pushes the slots of the rows of other ranks.
template <Peers kPeers>
EP_DEVICE void push_routes(const Operation<kPeers>& op, const HtCombineArgs& args, unsigned char* shared,
                           FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  Mover mover(args.move, true, queue, shared + dev::warp_idx() * args.move.mover_bytes());
  if (dev::lane_idx() == 0) mover.open();
  const auto push = [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    if (dev::lane_idx() != 0) return;
    for (uint32_t i = 0; i < it.home.num_hits; ++i) {
      mover.move(from.at(it.hit(args.handle, i)), to + i * op.group.layout.row_bytes, flag + i);
    }
  };
  for_each_result(op, args, NoOthersExact<kPeers>(), false, push);
  if (dev::lane_idx() != 0) return;
  mover.drain();
  mover.close();
}

// What stands at a place of a token's top-k.
struct Route {
  uint32_t hit =
      HtHandleLayout::kNoHit;  // among the token's; none behind the last place, or if an earlier place has it
  HtDest dest{};               // where it is

  EP_DEVICE Route(const HtCombineArgs& args, uint32_t token, uint32_t k) {
    if (k >= args.num_topk) return;
    const uint8_t* places = args.handle.place(token, 0);
    hit = places[k];
    for (uint32_t before = 0; before < k; ++before) {
      if (places[before] == hit) hit = HtHandleLayout::kNoHit;
    }
    const uint32_t num_dests = *args.handle.num_dests(token);
    for (uint32_t i = 0; exists() && i < num_dests; ++i) {
      const HtDest other = dev::ld(args.handle.dest(token, i));
      if (hit - other.hits.first < other.hits.count) dest = other;
    }
  }
  EP_DEVICE bool exists() const { return hit != HtHandleLayout::kNoHit; }
};

// Lists what is added up for a token as soon as it is there, in the order of the top-k; with masks without what does not come
// since its rank is lost. False: something did not come.
template <Peers kPeers>
EP_DEVICE bool list_routes(const Operation<kPeers>& op, const HtCombineArgs& args, uint32_t token, Addend* addends,
                           uint32_t& num_addends) {
  const HtGroupState& group = op.group;
  const Rows arrived = window_rows(group, group.rank), own = rows_of(args.tokens, args.move.row_bytes);
  const uint32_t lane = dev::lane_idx();
  dev::sync_warp();  // the addends are about to be replaced
  num_addends = 0;
  for (uint32_t first = 0; first < args.num_topk; first += 32) {
    const Route route(args, token, first + lane);
    const bool exists = route.exists(), in_place = route.dest.rank == group.rank;
    const uint64_t slot = group.layout.home_slot(token, exists ? route.hit : 0);
    uint32_t lost = 0;
    const Awaited awaited{Wait::combine_row, route.dest.rank, token};
    if (!await_rows(op, awaited, exists && !in_place, slot, lost)) return false;
    const uint32_t used = dev::ballot(exists) & ~lost;
    if (used >> lane & 1) {
      const uint32_t i = route.hit - route.dest.hits.first;  // of the row there
      addends[num_addends + dev::popc(used & ((1u << lane) - 1))] =
          in_place ? own.at(*args.handle.hit(route.dest.row, i)) : arrived.at(slot);
    }
    num_addends += dev::popc(used);
  }
  dev::sync_warp();
  return true;
}

EP_DEVICE void add_up(DType dtype, const Addend* addends, uint32_t num_addends, const Span& span, unsigned char* out) {
  switch (dtype) {
    case DType::bf16: return add_up<DType::bf16>(addends, num_addends, span, out);
    case DType::fp16: return add_up<DType::fp16>(addends, num_addends, span, out);
    case DType::fp32: return add_up<DType::fp32>(addends, num_addends, span, out);
  }
}

template <Peers kPeers>
EP_DEVICE void collect_routes(const Operation<kPeers>& op, const HtCombineArgs& args, Addend* addends) {
  const auto sum_guest = [](uint32_t) { return true; };  // there are none
  for_each_sum(op, args, NoOthersExact<kPeers>(), sum_guest, [&](uint32_t token, const Span& span, unsigned char* out) {
    uint32_t num_addends = 0;
    if (!list_routes(op, args, token, addends, num_addends)) return false;
    add_up(args.dtype, addends, num_addends, span, out);
    return true;
  });
}

template <Peers kPeers = Peers::team>
EP_DEVICE void combine_exact(const HtCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kMoveWarps][kHtMaxTopk]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const HtStart start = begin(args.group, NoRails());
  const Operation<kPeers> op(args, start);
  const Crews crews(args.move, true);
  if (start.ready) {
    if (crews.pushers.has_me()) {
      push_routes(op, args, shared, queues[dev::warp_idx()]);
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    } else if (crews.receivers.has_me() && args.topk_weights && await_peers(op)) {
      send_gradients<true>(op, args, crews.receivers);
      collect_gradients(op, args, NoOthersExact<kPeers>(), crews.receivers);
    }
    dev::sync_warp();
    if (crews.have_me()) collect_routes(op, args, addends[dev::warp_idx()]);
  }
  finish_pushing(op, args.move);
}

}  // namespace nccl_ep::ht
