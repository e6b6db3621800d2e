// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine whose rows travel as E4M3 numbers with scales (NCCL_EP_COMB_QUANT_FP8): forward, of bf16 rows, in
// both layouts, in one launch.
//
// Parties: as in combine.cuh. What a rank has of a token, flat its row and expert-major the sum of its slots in fp32, is
// quantized and pushed to its home slot by way of stages; a rank's own go to its own window alike, so that sums do not depend
// on where the experts are. The other warps add number times scale in the order of the ranks, in fp32, and round once.
// Memory: the home ranks' windows. Waits: for peers to start, for rows to arrive. In a group with masks what is a lost rank's
// adds nothing.
#pragma once

#include "ht/sum_mover.cuh"

namespace nccl_ep::ht {

// Pushes the rows of all flows, this rank's among them.
template <class Others, Peers kPeers>
EP_DEVICE void push_quantized_rows(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                   ListedSum (&lists)[SumMover::kLists], unsigned char* shared, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  SumMover mover(args.move, queue, lists, shared + dev::warp_idx() * args.move.sum_mover_bytes());
  mover.open();
  for_each_result(op, args, others, true, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    const uint32_t num_rows = args.is_expert_major ? it.home.num_hits : 1;
    for (uint32_t i = dev::lane_idx(); i < num_rows; i += 32) {
      mover.rows()[i] = from.at(args.is_expert_major ? it.hit(args.handle, i) : it.row);
    }
    mover.push(num_rows, to, flag);
  });
  mover.drain();
  mover.close();
}

// Lists what has come for a hosted token: the results of the team's ranks, in their order, then the sums of other teams, in
// theirs. False: something did not come.
template <class Others, Peers kPeers>
EP_DEVICE bool list_all_quantized(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                  uint32_t token, Addend* addends, uint32_t& num_addends) {
  const Rows arrived = window_rows(op.group, op.group.rank);
  dev::sync_warp();  // the addends are about to be replaced
  num_addends = *args.handle.num_dests(token);
  for (uint32_t first = 0; first < num_addends; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    const HtDest dest = i < num_addends ? dev::ld(args.handle.dest(token, i)) : HtDest{};
    const bool exists = i < num_addends && others.is_in_team(op.group, dest.rank);
    const uint64_t slot = op.group.layout.home_slot(token, exists ? i : 0);
    if (exists) addends[i] = arrived.at(slot);
    if (!await_rows(op, {Wait::combine_row, dest.rank, token}, exists, slot)) return false;
    if (!others.list_sum(op, dest, i < num_addends && !exists, addends + i)) return false;
  }
  dev::sync_warp();
  return true;
}

// The same in a group with masks: what does not come since its rank is lost is left out. False: the group has failed.
template <class Others, Peers kPeers>
EP_DEVICE bool list_quantized_that_come(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                        uint32_t token, Addend* addends, uint32_t& num_addends) {
  const Rows arrived = window_rows(op.group, op.group.rank);
  const uint32_t num_dests = *args.handle.num_dests(token);
  dev::sync_warp();  // the last token's addends are about to be replaced
  num_addends = 0;
  for (uint32_t first = 0; first < num_dests; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    const bool exists = i < num_dests;
    const HtDest dest = exists ? dev::ld(args.handle.dest(token, i)) : HtDest{};
    const bool is_here = exists && others.is_in_team(op.group, dest.rank);
    const uint64_t slot = op.group.layout.home_slot(token, is_here ? i : 0);
    uint32_t lost = 0;
    if (!await_rows(op, {Wait::combine_row, dest.rank, token}, is_here, slot, lost)) return false;
    if (!others.await_sum(op, dest, exists && !is_here, lost)) return false;
    const uint32_t come = dev::ballot(exists) & ~lost, before = come & ((1u << dev::lane_idx()) - 1);
    if (come >> dev::lane_idx() & 1) {
      addends[num_addends + dev::popc(before)] = is_here ? arrived.at(slot) : others.sum_of(dest);
    }
    num_addends += dev::popc(come);
  }
  dev::sync_warp();
  return true;
}

template <class Others, Peers kPeers>
EP_DEVICE bool list_quantized(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                              uint32_t token, Addend* addends, uint32_t& num_addends) {
  if constexpr (has_masks(kPeers)) return list_quantized_that_come(op, args, others, token, addends, num_addends);
  return list_all_quantized(op, args, others, token, addends, num_addends);
}

// Adds up the results of guests, for whom others wait, and then of this rank's tokens.
template <class Others, Peers kPeers>
EP_DEVICE void collect_quantized(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                 Addend* addends) {
  const SumItems items(args);
  const uint32_t num_guests = others.num_guests();
  for (;;) {
    const uint32_t ticket = dev::shfl(take_ticket(args.move.num_begun, 1), 0);
    if constexpr (Others::kExist) {
      if (ticket < num_guests) {
        if (!others.sum_quantized_guest(op, ticket, addends)) return;
        continue;
      }
    }
    const uint32_t i = ticket - num_guests;
    if (i >= items.count) return;
    const uint32_t token = items.token(i);
    uint32_t num_addends = 0;
    if (!list_quantized(op, args, others, token, addends, num_addends)) return;
    const Span bytes = items.span(i);
    unsigned char* out = args.out_tokens + uint64_t{token} * items.row_bytes;
    const auto store = [&](const QuantizedSum& sum, const LanePart& part) { store_rounded(sum, part, out); };
    sum_quantized(addends, num_addends, {bytes.begin / 2, bytes.end / 2}, store);
  }
}

template <class Others>
EP_DEVICE void combine_quantized_with(const HtCombineArgs& args, const Others& others) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(ListedSum, lists, [kMoveWarps][SumMover::kLists]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const Start start = begin(args.group, others.rails());
  const Operation<Others::kPeers> op(args, start.epoch);
  const Crews crews(args.move, true);
  const uint32_t warp = dev::warp_idx();
  if (start.ready) {
    if (crews.pushers.has_me()) {
      push_quantized_rows(op, args, others, lists[warp], shared, queues[warp]);
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    }
    dev::sync_warp();
    if (crews.have_me()) collect_quantized(op, args, others, lists[warp][0].rows);
    if (crews.receivers.has_me() && crews.receivers.worker() == 0) others.await_all(op);
  }
  finish_pushing(op, args.move);
}

template <Peers kPeers = Peers::team>
EP_DEVICE void combine_quantized(const HtCombineArgs& args) {
  combine_quantized_with(args, NoOthers<kPeers>());
}

}  // namespace nccl_ep::ht
