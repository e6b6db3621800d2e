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

#include "ht/combine.cuh"
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

// A rank's own results travel as well.
struct NoOwnResults {
  EP_DEVICE static bool has(const HtDest&) { return false; }
  EP_DEVICE static Addend at(const HtDest&) { return nullptr; }
};

template <class Others, Peers kPeers>
EP_DEVICE void collect_quantized(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                 Addend* addends) {
  const auto sum_guest = [&](uint32_t number) {
    if constexpr (Others::kExist) return others.sum_quantized_guest(op, number, addends);
    return true;
  };
  for_each_sum(op, args, others, sum_guest, [&](uint32_t token, const Span& bytes, unsigned char* out) {
    uint32_t num_addends = 0;
    if (!list_results(op, args, NoOwnResults(), others, token, addends, num_addends)) return false;
    const auto store = [&](const QuantizedSum& sum, const LanePart& part) { store_rounded(sum, part, out); };
    sum_quantized(addends, num_addends, {bytes.begin / 2, bytes.end / 2}, store);
    return true;
  });
}

template <class Others>
EP_DEVICE void combine_quantized_with(const HtCombineArgs& args, const Others& others) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(ListedSum, lists, [kMoveWarps][SumMover::kLists]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const HtStart start = begin(args.group, others.rails());
  const Operation<Others::kPeers> op(args, start);
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
