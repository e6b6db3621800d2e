// SPDX-License-Identifier: Apache-2.0
// A kernel's fault record in words.
#pragma once

#include <string>

#include "runtime/nccl_types.hpp"
#include "shared/waits.hpp"

namespace nccl_ep::core {

// What later calls return; ncclSuccess if nothing is recorded. The kernel may be writing it now. Rows that do not fit are a
// misuse of the budget that the group was made with.
ncclResult_t result_of(const FaultRecord& fault);
// `max_tokens`: of a rank.
std::string describe(const FaultRecord& fault, uint64_t timeout_ns, uint32_t max_tokens);

}  // namespace nccl_ep::core
