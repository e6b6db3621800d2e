// SPDX-License-Identifier: Apache-2.0
// Who does what of the rows: they are dealt out a few at a time, in their order, to whichever warp is free. SMs do not push
// at the same speed, and peers may get very different numbers of rows.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// What this operation's warps count of a flow. It is zero to begin with: the operation before has left it so.
template <Peers kPeers>
EP_DEVICE HtPushed& pushed(const Operation<kPeers>& op, const HtMovePlan& plan, uint32_t flow) {
  return plan.pushed[op.turn * op.group.num_ranks + flow];
}

// What this rank's warps have taken of the rows of a flow.
template <Peers kPeers>
EP_DEVICE uint32_t num_taken(const Operation<kPeers>& op, const HtMovePlan& plan, uint32_t flow) {
  return dev::ld_relaxed<dev::Scope::gpu>(&pushed(op, plan, flow).num_taken);
}

// Takes the next `step` numbers: lane 0 gets the first of them.
EP_DEVICE uint32_t take_ticket(uint32_t* num_taken, uint32_t step) {
  if (dev::lane_idx() != 0) return 0;
  return dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(num_taken, step);
}

// Takes the next sum, or token to be quantized. The whole warp calls it.
template <Peers kPeers>
EP_DEVICE uint32_t take_next(const Operation<kPeers>& op, const HtMovePlan& plan) {
  return dev::shfl(take_ticket(plan.num_begun + op.turn, 1), 0);
}

// Takes rows of a flow, plan.ticket_rows at a time, and calls push(first, end) for them. The whole warp calls it.
template <class Push, Peers kPeers>
EP_DEVICE void for_each_ticket(const Operation<kPeers>& op, const HtMovePlan& plan, uint32_t flow, uint32_t num_rows,
                               Push push) {
  uint32_t* num_taken = &pushed(op, plan, flow).num_taken;
  for (uint32_t next = take_ticket(num_taken, plan.ticket_rows);;) {
    const uint32_t first = dev::shfl(next, 0);
    if (first >= num_rows) return;
    next = take_ticket(num_taken, plan.ticket_rows);  // on its way meanwhile
    push(first, first + plan.ticket_rows < num_rows ? first + plan.ticket_rows : num_rows);
  }
}

// The rank of this team that a flow is about.
EP_DEVICE uint32_t rank_of_flow(const HtGroupState& group, uint32_t flow) {
  return group.first_rank + flow % group.layout.team_size;
}

// Calls push(flow) for those of some flows that still have rows to be taken, when the rank has started. Warps begin with
// different ones. The whole warp calls it. False: a rank has not started. Those to masked ranks are left out.
template <class FlowOf, class NumRows, class Push, Peers kPeers>
EP_DEVICE bool for_each_flow(const Operation<kPeers>& op, const HtMovePlan& plan, uint32_t num_flows, FlowOf flow_of,
                             NumRows num_rows, Push push) {
  const uint32_t num_warps = plan.push_blocks * plan.push_warps;
  const uint32_t warp = dev::block_idx() * plan.push_warps + dev::warp_idx();
  const uint32_t start = static_cast<uint32_t>(uint64_t{warp} * num_flows / num_warps);
  for (uint32_t base = 0; base < num_flows; base += 32) {
    const uint32_t i = base + dev::lane_idx(), mine = flow_of((start + i) % num_flows);
    const auto has_rows = [&] { return i < num_flows && num_taken(op, plan, mine) < num_rows(mine); };
    uint32_t unvisited = ~0u;
    // At first all flows have rows, most likely: asking would take as long as a ticket.
#pragma unroll 1
    for (uint32_t left = base == 0 ? 1 : dev::ballot(has_rows()); left; left = dev::ballot(has_rows()) & unvisited) {
      const uint32_t lane = dev::find_first(left), flow = dev::shfl(mine, lane);
      unvisited &= ~(1u << lane);
      if (!dev::all(op.await_peer(rank_of_flow(op.group, flow)))) {
        if (!op.warp_goes_on()) return false;
        continue;
      }
      dev::fence_proxy_async();  // bulk copies will overwrite what others have written there
      push(flow);
    }
  }
  return true;
}

// The flows between this rank and its team, with that to itself as if it was a peer, if `with_own`.
template <class NumRows, class Push, Peers kPeers>
EP_DEVICE bool for_each_own_flow(const Operation<kPeers>& op, const HtMovePlan& plan, bool with_own, NumRows num_rows,
                                 Push push) {
  return for_each_flow(
      op, plan, op.group.layout.team_size - (with_own ? 0 : 1), [&](uint32_t i) { return team_peer(op.group, i); },
      num_rows, push);
}

// Makes the operation count, and nothing taken for the next one, whose counters nobody uses in this one. All threads of all
// blocks call it; other warps may still be at work.
template <Peers kPeers>
EP_DEVICE void finish_pushing(const Operation<kPeers>& op, const HtMovePlan& plan) {
  GroupProgress* progress = op.group.progress;
  if (!is_last_block(progress->blocks_done)) return;
  const uint32_t next = 1 - op.turn;
  for (uint32_t flow = 0; flow < op.group.num_ranks; ++flow) plan.pushed[next * op.group.num_ranks + flow] = {0, 0};
  plan.num_begun[next] = 0;
  dev::st_relaxed<dev::Scope::gpu>(&progress->turn, next);
  dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, op.epoch);
}

// Tells the rank of a flow that everything has arrived: from this rank, or from the one that it stands in for.
template <Peers kPeers>
EP_DEVICE void tell_done(const Operation<kPeers>& op, uint32_t flow) {
  const HtGroupState& group = op.group;
  const uint32_t peer = rank_of_flow(group, flow), source = group.rank + (flow - peer);
  dev::st_release<dev::Scope::system>(group.window.at<uint32_t>(peer, group.layout.done_at(source)), op.epoch);
}

// Says that so many of a flow's rows have arrived; who completes them tells its rank. One lane calls it.
template <Peers kPeers>
EP_DEVICE void add_arrived(const Operation<kPeers>& op, const HtMovePlan& plan, uint32_t flow, uint32_t count,
                           uint32_t num_rows) {
  const uint32_t before =
      dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(&pushed(op, plan, flow).num_arrived, count);
  if (before + count == num_rows) tell_done(op, flow);
}

// Waits until all rows of all ranks that take part have been pushed to this one. One warp of the grid calls it.
template <Peers kPeers>
EP_DEVICE bool await_all_done(const Operation<kPeers>& op) {
  const HtGroupState& group = op.group;
  bool ok = true;
  for (uint32_t peer = dev::lane_idx(); peer < group.num_ranks; peer += 32) {
    if (peer == group.rank) continue;
    const uint32_t* done = group.window.at<uint32_t>(group.rank, group.layout.done_at(peer));
    ok &= op.wait_for({Wait::rows_done, op.deals_with(peer), 0},
                      [&] { return static_cast<int32_t>(dev::ld_acquire<dev::Scope::system>(done) - op.epoch) >= 0; });
  }
  return dev::all(ok);
}

}  // namespace nccl_ep::ht
