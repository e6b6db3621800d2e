// SPDX-License-Identifier: Apache-2.0
// Going on without ranks that do not answer, in a group with masks.
//
// A rank that is waited for in vain is masked, by this rank for itself. From then on nothing is sent to it, and nobody waits
// for it; what it should have sent counts as nothing. Blocks begin at different times, and what one of them waited for in
// vain another may have seen. For a sum that is as good either way. But where rows lie depends on the counts of all ranks, so
// all blocks must take the same ranks to be there: the first that has an opinion about a rank decides.
#pragma once

#include "ll/operation.cuh"

namespace nccl_ep::ll {

// A verdict has the epoch of its operation, so none has to be taken back: others are of earlier operations. It is relaxed,
// since a fence would wait for the rows that are being pushed.
EP_DEVICE uint32_t verdict(uint32_t epoch, bool is_present) { return epoch << 1 | is_present; }

// Whether the operation has the tokens of a rank, of which this block has or has not seen all counts.
template <Peers kPeers>
EP_DEVICE bool settle(const Operation<kPeers>& op, uint32_t source, bool is_complete) {
  uint32_t* word = op.group.mask.verdicts + op.bank * op.group.num_ranks + source;
  const uint32_t absent = verdict(op.epoch, false), present = verdict(op.epoch, true);
  // As a rule it was the same when the bank was last used.
  uint32_t before = verdict(op.epoch - LlLayout::kNumBanks, is_complete);
#pragma unroll 1
  for (;;) {
    const uint32_t expected = before;
    before = dev::atomic_cas<dev::Order::relaxed, dev::Scope::gpu>(word, expected, is_complete ? present : absent);
    if (before == expected) return is_complete;
    if (before == absent || before == present) return before == present;
  }
}

}  // namespace nccl_ep::ll
