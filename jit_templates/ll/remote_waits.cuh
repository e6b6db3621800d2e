// SPDX-License-Identifier: Apache-2.0
// How Low-Latency kernels talk to ranks outside their LSA team, and wait for them in a group with masks.
#pragma once

#include "common/remote_waits.cuh"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

using Signals = SignalsOf<LlGroupState, LlNetwork>;
using TeamsLife = TeamsLifeOf<LlGroupState, LlNetwork>;

template <>
struct Waiting<Peers::masked_teams> : PatientOperation<LlGroupState, LlNetwork> {
  using PatientOperation<LlGroupState, LlNetwork>::PatientOperation;
};

}  // namespace nccl_ep::ll
