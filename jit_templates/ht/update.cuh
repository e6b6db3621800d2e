// SPDX-License-Identifier: Apache-2.0
// UpdateHandle for High Throughput: who sends how much to whom, and where each row will lie, in one launch.
//
// Parties: each rank counts its tokens for every rank and every expert, sends the counts to all, and waits for theirs. Then
// it knows the final row of each of its tokens on each rank, and tells the receivers what they must know of each row.
// Each block has consecutive tokens, so rows lie by (source rank, token); all blocks run at a time, and tell each other
// their counts. What a rank has no room for is thinned out, or a fault. Memory: counts and records of the windows, the
// handle's memory. Waits: for blocks, for peers, for records.
#pragma once

#include "ht/place.cuh"

namespace nccl_ep::ht {

template <bool kExpertMajor>
EP_DEVICE void update(const HtUpdateArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const UpdateScratch scratch(args, shared);
  const Start start = begin(args.group);
  const Operation op{{args.group, start.epoch}};
  if (start.ready) {
    count_block(args, scratch, op.epoch);
    bool ok = add_blocks(op, args, scratch);
    if (ok) ok = all_in_block(send_counts(op, scratch) && add_ranks(op, args.handle, scratch));
    if (ok) {
      if (!kExpertMajor && args.drops) thin_rows(args, scratch);
      find_outgoing(args, scratch);
      find_zones<kExpertMajor>(args, scratch);
      const bool all_fit = fits(args, scratch, op.epoch);
      if (all_fit || args.drops) {
        place_all<kExpertMajor>(op, args, scratch, !all_fit);
        receive_records<kExpertMajor>(op, args, scratch);
        tell_host(args);
      }
    }
  }
  finish(op);
}

}  // namespace nccl_ep::ht
