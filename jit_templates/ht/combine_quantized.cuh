// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine whose rows travel as E4M3 numbers with scales (NCCL_EP_COMB_QUANT_FP8): forward, of bf16 rows, in
// both layouts, in one launch.
//
// Parties: as in combine.cuh. What a rank has of a token, flat its row and expert-major the sum of its slots in fp32, is
// quantized and pushed to its home slot by way of stages; a rank's own go to its own window alike, so that sums do not depend
// on where the experts are. The other warps add number times scale in the order of the ranks, in fp32, and round once.
// Memory: the home ranks' windows. Waits: for peers to start, for rows to arrive.
#pragma once

#include "ht/sum_mover.cuh"

namespace nccl_ep::ht {

// Pushes the rows of all flows, this rank's among them.
EP_DEVICE void push_quantized_rows(const TeamOperation& op, const HtCombineArgs& args,
                                   ListedSum (&lists)[SumMover::kLists], unsigned char* shared, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  SumMover mover(args.move, queue, lists, shared + dev::warp_idx() * args.move.sum_mover_bytes());
  mover.open();
  for_each_result(op, args, NoOthers<>(), true, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    const uint32_t num_rows = args.is_expert_major ? it.home.num_hits : 1;
    for (uint32_t i = dev::lane_idx(); i < num_rows; i += 32) {
      mover.rows()[i] = from.at(args.is_expert_major ? it.hit(args.handle, i) : it.row);
    }
    mover.push(num_rows, to, flag);
  });
  mover.drain();
  mover.close();
}

// Lists what has come for a token, in the order of the ranks. False: something did not come.
EP_DEVICE bool list_quantized(const TeamOperation& op, const HtCombineArgs& args, uint32_t token, Addend* addends,
                              uint32_t& num_addends) {
  const Rows arrived = window_rows(op.group, op.group.rank);
  dev::sync_warp();  // the addends are about to be replaced
  num_addends = *args.handle.num_dests(token);
  for (uint32_t first = 0; first < num_addends; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    const bool exists = i < num_addends;
    const uint32_t peer = exists ? args.handle.dest(token, i)->rank : 0;
    const uint64_t slot = op.group.layout.home_slot(token, exists ? i : 0);
    if (exists) addends[i] = arrived.at(slot);
    if (!await_rows(op, {Wait::combine_row, peer, token}, exists, slot)) return false;
  }
  dev::sync_warp();
  return true;
}

// Adds up this rank's tokens.
EP_DEVICE void collect_quantized(const TeamOperation& op, const HtCombineArgs& args, Addend* addends) {
  const SumItems items(args);
  for (;;) {
    const uint32_t i = dev::shfl(take_ticket(args.move.num_begun, 1), 0);
    if (i >= items.count) return;
    const uint32_t token = items.token(i);
    uint32_t num_addends = 0;
    if (!list_quantized(op, args, token, addends, num_addends)) return;
    const Span bytes = items.span(i);
    sum_quantized(addends, num_addends, {bytes.begin / 2, bytes.end / 2},
                  args.out_tokens + uint64_t{token} * items.row_bytes);
  }
}

EP_DEVICE void combine_quantized(const HtCombineArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(ListedSum, lists, [kMoveWarps][SumMover::kLists]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const Start start = begin(args.group, NoRails());
  const TeamOperation op{{args.group, start.epoch}};
  const Crews crews(args.move, true);
  if (start.ready) {
    if (crews.pushers.has_me()) {
      push_quantized_rows(op, args, lists[dev::warp_idx()], shared, queues[dev::warp_idx()]);
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    }
    dev::sync_warp();
    if (crews.have_me()) collect_quantized(op, args, lists[dev::warp_idx()][0].rows);
  }
  finish_pushing(op, args.move);
}

}  // namespace nccl_ep::ht
