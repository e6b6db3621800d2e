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

enum Verdict : uint32_t { kUndecided = 0, kPresent = 1, kAbsent = 2 };

EP_DEVICE uint32_t* verdict_on(const Operation<Peers::masked_team>& op, uint32_t source) {
  return op.group.mask.verdicts + op.bank * op.group.num_ranks + source;
}

// Whether the operation has the tokens of a rank, of which this block has or has not seen all counts. Who gets an answer
// may read what the first one has seen.
EP_DEVICE bool settle(const Operation<Peers::masked_team>& op, uint32_t source, bool is_complete) {
  const uint32_t mine = is_complete ? kPresent : kAbsent;
  const uint32_t before =
      dev::atomic_cas<dev::Order::acq_rel, dev::Scope::gpu>(verdict_on(op, source), uint32_t{kUndecided}, mine);
  return (before == kUndecided ? mine : before) == kPresent;
}

// When all blocks have settled: for the next operation that uses the bank. One thread calls it.
EP_DEVICE void forget_verdicts(const Operation<Peers::masked_team>& op) {
#pragma unroll 1
  for (uint32_t source = 0; source < op.group.num_ranks; ++source) {
    dev::st_relaxed<dev::Scope::gpu>(verdict_on(op, source), uint32_t{kUndecided});
  }
}

}  // namespace nccl_ep::ll
