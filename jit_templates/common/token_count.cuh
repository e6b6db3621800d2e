// SPDX-License-Identifier: Apache-2.0
// Reading how many tokens this rank has.
#pragma once

#include "common/waiting.cuh"
#include "shared/token_count.hpp"

namespace nccl_ep {

// What cannot be, which is a fault, is taken for all rows.
EP_DEVICE uint32_t num_tokens(const TokenCount& tokens) {
  const uint32_t given = static_cast<uint32_t>(dev::ld_nc_or(tokens.given, static_cast<int32_t>(tokens.most)));
  return given < tokens.most ? given : tokens.most;
}

// Reports a count that cannot be. One thread of an operation calls it.
EP_DEVICE void check_count(const GroupState& group, const TokenCount& tokens) {
  const int32_t given = dev::ld_nc_or(tokens.given, static_cast<int32_t>(tokens.most));
  if (given >= 0 && static_cast<uint32_t>(given) <= tokens.most) return;
  report(group, {FaultRecord::kBadCount, Wait::none, 0, 0, tokens.most, 0, given});
}

}  // namespace nccl_ep
