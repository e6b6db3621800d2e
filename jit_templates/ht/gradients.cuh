// SPDX-License-Identifier: Apache-2.0
// The gradients of the weights, which the backward combine brings to the tokens' home ranks.
#pragma once

#include "ht/parties.cuh"
#include "ht/tickets.cuh"
#include "ht/weights.cuh"

namespace nccl_ep::ht {

// Backward: sends the gradients of the weights of this rank's rows to the tokens' hosts: a lane for each row.
template <bool kExpertMajor, Peers kPeers>
EP_DEVICE void send_gradients(const Operation<kPeers>& op, const HtCombineArgs& args, const Crew& crew) {
  const HtGroupState& group = op.group;
  const uint32_t num_rows = args.handle.totals()->num_rows;
  for (uint32_t row = crew.thread(); row < num_rows; row += crew.num_threads()) {
    const HtHome home = dev::ld(args.handle.home(row));
    const auto get = [&](uint32_t i) {
      return dev::ld_nc(args.topk_weights +
                        (kExpertMajor ? *args.handle.hit(row, i) : uint64_t{row} * args.num_topk + i));
    };
    if (Operation<kPeers>::kMasks && (home.num_hits == 0 || !op.reaches(rank_of_flow(group, home.source)))) continue;
    send_floats(op, rank_of_flow(group, home.source), group.layout.home_slot(home.token, home.place), home.num_hits,
                get);
  }
}

// Backward: the gradients of this rank's tokens, at the places of their experts; zero where there is none. A lane for each
// token.
template <class Others, Peers kPeers>
EP_DEVICE void collect_gradients(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                                 const Crew& crew) {
  const uint32_t num_tokens = args.handle.totals()->num_tokens;
  for (uint32_t token = crew.thread(); token < num_tokens; token += crew.num_threads()) {
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
          if (places[k] == dest.hits.first + j) out[k] = gradient;
        }
      };
      const Awaited awaited{Wait::row_weights, dest.rank, token};
      const bool ok =
          others.is_in_team(op.group, dest.rank)
              ? receive_floats(op, awaited, others.home_slot(op.group, token, i, dest), dest.hits.count, put)
              : others.receive_gradients(op, dest, put);
      if (ok) continue;
      if (!op.goes_on()) return;
      for (uint32_t j = 0; j < dest.hits.count; ++j) put(j, 0);  // who has them is lost
    }
  }
}

}  // namespace nccl_ep::ht
