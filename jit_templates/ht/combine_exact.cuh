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

// Other teams, where there are none. A token has home slots for its hits instead of the ranks that it goes to.
template <Peers kPeers>
struct NoOtherRoutes : NoOthers<kPeers> {
  EP_DEVICE static uint64_t home_slot(const HtGroupState& group, uint32_t token, uint32_t, const HtDest& dest) {
    return group.layout.home_slot(token, dest.hits.first);
  }
  EP_DEVICE static Addend row_of(const HtDest&, uint32_t) { return nullptr; }
  EP_DEVICE static bool send_routes(const Operation<kPeers>&, uint32_t, Addend*) { return true; }
};

// Pushes the slots of the rows that others host.
template <class Others, Peers kPeers>
EP_DEVICE void push_routes(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                           unsigned char* shared, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  Mover mover(args.move, true, queue, shared + dev::warp_idx() * args.move.mover_bytes());
  if (dev::lane_idx() == 0) mover.open();
  const auto push = [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    if (dev::lane_idx() != 0) return;
    for (uint32_t i = 0; i < it.home.num_hits; ++i) {
      mover.move(from.at(it.hit(args.handle, i)), to + i * op.group.layout.row_bytes, flag + i);
    }
  };
  for_each_result(op, args, others, false, push);
  if (dev::lane_idx() != 0) return;
  mover.drain();
  mover.close();
}

// One of a hosted token's hits, and where it is.
struct Route {
  uint32_t hit = HtHandleLayout::kNoHit;  // of a guest among those in this team; kNoHit: there is no such route
  HtDest dest{};

  Route() = default;
  EP_DEVICE Route(const HtHandle& handle, uint32_t token, uint32_t hit_of_token) : hit(hit_of_token) {
    const uint32_t num_dests = *handle.num_dests(token);
    for (uint32_t i = 0; exists() && i < num_dests; ++i) {
      const HtDest other = dev::ld(handle.dest(token, i));
      if (hit - other.hits.first < other.hits.count) dest = other;
    }
  }
  EP_DEVICE bool exists() const { return hit != HtHandleLayout::kNoHit; }
  EP_DEVICE uint32_t hit_there() const { return hit - dest.hits.first; }
};

// What stands at a place of a token's top-k: nothing behind the last place, or if an earlier place has it.
EP_DEVICE Route route_at(const HtCombineArgs& args, uint32_t token, uint32_t k) {
  if (k >= args.num_topk) return {};
  const uint8_t* places = args.handle.place(token, 0);
  uint32_t hit = places[k];
  for (uint32_t before = 0; before < k; ++before) {
    if (places[before] == hit) hit = HtHandleLayout::kNoHit;
  }
  return {args.handle, token, hit};
}

// Waits for the rows of some of a hosted token's routes, each lane for one; `come` is which lanes have a row then, `row` a
// lane's own. With masks what does not come is lost with its rank. False: something did not come. The whole warp calls it.
template <class Others, Peers kPeers>
EP_DEVICE bool await_routes(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                            uint32_t token, const Route& route, uint32_t& come, Addend& row) {
  const HtGroupState& group = op.group;
  const bool is_here = route.exists() && others.is_in_team(group, route.dest.rank);
  const bool in_place = route.dest.rank == group.rank;
  const uint64_t slot = group.layout.home_slot(token, is_here ? route.hit : 0);
  uint32_t lost = 0;
  const Awaited awaited{Wait::combine_row, route.dest.rank, token};
  if (!await_rows(op, awaited, is_here && !in_place, slot, lost)) return false;
  if (!others.await_sum(op, route.dest, route.exists() && !is_here, lost)) return false;
  come = dev::ballot(route.exists()) & ~lost;
  if (come >> dev::lane_idx() & 1) {
    row = !is_here   ? others.row_of(route.dest, route.hit_there())
          : in_place ? rows_of(args.tokens, args.move.row_bytes).at(*args.handle.hit(route.dest.row, route.hit_there()))
                     : window_rows(group, group.rank).at(slot);
  }
  return true;
}

// Lists what is added up for a token as soon as it is there, in the order of the top-k. False: something did not come.
template <class Others, Peers kPeers>
EP_DEVICE bool list_routes(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others, uint32_t token,
                           Addend* addends, uint32_t& num_addends) {
  dev::sync_warp();  // the addends are about to be replaced
  num_addends = 0;
  for (uint32_t first = 0; first < args.num_topk; first += 32) {
    uint32_t come = 0;
    Addend row = nullptr;
    const Route route = route_at(args, token, first + dev::lane_idx());
    if (!await_routes(op, args, others, token, route, come, row)) return false;
    list_those(come, row, addends, num_addends);
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

template <class Others, Peers kPeers>
EP_DEVICE void collect_routes(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                              Addend* addends) {
  const auto send_guest = [&](uint32_t number) { return others.send_routes(op, number, addends); };
  for_each_sum(op, args, others, send_guest, [&](uint32_t token, const Span& span, unsigned char* out) {
    uint32_t num_addends = 0;
    if (!list_routes(op, args, others, token, addends, num_addends)) return false;
    add_up(args.dtype, addends, num_addends, span, out);
    return true;
  });
}

template <class Others>
EP_DEVICE void combine_exact_with(const HtCombineArgs& args, const Others& others) {
  using Op = Operation<Others::kPeers>;
  const auto push = [&](const Op& op, Addend*, unsigned char* shared, FlagQueue& queue) {
    push_routes(op, args, others, shared, queue);
  };
  combine_by<true>(args, others, push,
                   [&](const Op& op, Addend* addends) { collect_routes(op, args, others, addends); });
}

template <Peers kPeers = Peers::team>
EP_DEVICE void combine_exact(const HtCombineArgs& args) {
  combine_exact_with(args, NoOtherRoutes<kPeers>());
}

}  // namespace nccl_ep::ht
