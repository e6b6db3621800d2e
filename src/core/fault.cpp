// SPDX-License-Identifier: Apache-2.0
#include "core/fault.hpp"

#include <atomic>
#include <cstdio>

namespace nccl_ep::core {
namespace {

const char* sentence(Wait wait) {
  switch (wait) {
#define NCCL_EP_WAIT_SENTENCE(name, text) \
  case Wait::name: return text;
    NCCL_EP_WAITS(NCCL_EP_WAIT_SENTENCE)
#undef NCCL_EP_WAIT_SENTENCE
    default: return "something unknown";
  }
}

// What a record's `token` is. Tokens of other LSA teams' ranks are known here by their parcels (shared/ht_layout.hpp).
std::string numbered(const FaultRecord& fault, uint32_t max_tokens) {
  const std::string number = std::to_string(fault.token);
  switch (fault.wait) {
    case Wait::block_counts: return "block " + number;
    case Wait::row_record: return "row " + number;
    default: return fault.token < max_tokens ? "token " + number : "parcel " + std::to_string(fault.token % max_tokens);
  }
}

}  // namespace

ncclResult_t result_of(const FaultRecord& fault) {
  const uint32_t code = std::atomic_ref(const_cast<uint32_t&>(fault.code)).load(std::memory_order_acquire);
  switch (static_cast<FaultRecord::Code>(code)) {
    case FaultRecord::kNone: return ncclSuccess;
    case FaultRecord::kTimeout: return ncclRemoteError;
    case FaultRecord::kBadExpert: return ncclInvalidArgument;
    case FaultRecord::kOverflow: return ncclInvalidUsage;
    case FaultRecord::kBadCount: return ncclInvalidArgument;
  }
  return ncclInternalError;
}

std::string describe(const FaultRecord& fault, uint64_t timeout_ns, uint32_t max_tokens) {
  char text[256];
  switch (fault.code) {
    case FaultRecord::kBadExpert:
      std::snprintf(text, sizeof(text),
                    "topk_idx: rank %u routes token %u to expert %lld, expected -1 or an id below num_experts",
                    fault.rank, fault.token, static_cast<long long>(fault.expert));
      break;
    case FaultRecord::kOverflow:
      std::snprintf(text, sizeof(text),
                    "topk_idx: rank %u would receive %lld rows, expected at most config.max_recv_tokens_per_rank = %u",
                    fault.peer, static_cast<long long>(fault.expert), fault.token);
      break;
    case FaultRecord::kBadCount:
      std::snprintf(text, sizeof(text),
                    "layout_info.num_tokens: rank %u has %lld, expected 0 to %u, the rows of topk_idx", fault.rank,
                    static_cast<long long>(fault.expert), fault.token);
      break;
    default:
      std::snprintf(text, sizeof(text), "rank %u waited %.3g s for %s from rank %u (%s, epoch %u)", fault.rank,
                    static_cast<double>(timeout_ns) * 1e-9, sentence(fault.wait), fault.peer,
                    numbered(fault, max_tokens).c_str(), fault.epoch);
  }
  return text;
}

}  // namespace nccl_ep::core
