// SPDX-License-Identifier: Apache-2.0
#include "core/agreement.hpp"

#include <array>
#include <vector>

#include "core/checks.hpp"
#include "runtime/addresses.hpp"
#include "shared/limits.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint32_t kMaxLocalExperts = 65536;
constexpr uint32_t kMaxExperts = 1 << 20;     // LL divides by multiplying with floats, exact below twice as many
constexpr uint32_t kMaxTokenBytes = 1 << 30;  // kernels count a row's bytes in 32 bits

void check_ranks(uint32_t num_ranks) {
  if (num_ranks <= kMaxRanks) return;
  refuse(ncclInvalidUsage, "comm", "has " + number(num_ranks) + " ranks, expected at most " + number(kMaxRanks));
}

void check_experts(const ncclEpGroupConfig_t& config, uint32_t num_ranks) {
  if (config.num_experts == 0 || config.num_experts % num_ranks != 0) {
    refuse(ncclInvalidArgument, "config.num_experts",
           "is " + number(config.num_experts) + ", expected a positive multiple of the number of ranks (" +
               number(num_ranks) + ")");
  }
  if (config.num_experts / num_ranks > kMaxLocalExperts) {
    refuse(ncclInvalidArgument, "config.num_experts",
           "is " + number(config.num_experts) + ", expected at most " + number(kMaxLocalExperts) + " a rank");
  }
  if (config.num_experts > kMaxExperts) {
    refuse(ncclInvalidArgument, "config.num_experts",
           "is " + number(config.num_experts) + ", expected at most " + number(kMaxExperts));
  }
}

void check_rows(const ncclEpGroupConfig_t& config, uint32_t num_ranks) {
  if (config.max_dispatch_tokens_per_rank == 0) {
    refuse(ncclInvalidArgument, "config.max_dispatch_tokens_per_rank", "is 0, expected a positive number");
  }
  if (config.max_token_bytes == 0) {
    refuse(ncclInvalidArgument, "config.max_token_bytes", "is 0, expected the bytes of the largest token row");
  }
  if (config.max_token_bytes > kMaxTokenBytes) {
    refuse(ncclInvalidArgument, "config.max_token_bytes",
           "is " + number(config.max_token_bytes) + ", expected at most " + number(kMaxTokenBytes));
  }
  const double tokens = static_cast<double>(num_ranks) * config.max_dispatch_tokens_per_rank;
  if (tokens * config.max_token_bytes > static_cast<double>(runtime::kAddressableBytes)) {
    refuse(ncclInvalidArgument, "config.max_dispatch_tokens_per_rank",
           "is " + number(config.max_dispatch_tokens_per_rank) + " on " + number(num_ranks) + " ranks with " +
               number(config.max_token_bytes) + " bytes each (max_token_bytes), expected a product of at most 2^47");
  }
  if (config.num_topk > config.num_experts || config.num_topk > kMaxTopk) {
    refuse(ncclInvalidArgument, "config.num_topk",
           "is " + number(config.num_topk) + ", expected at most num_experts (" + number(config.num_experts) +
               ") and " + number(kMaxTopk));
  }
}

void check_device(const ncclEpGroupConfig_t& config, uint32_t num_sms) {
  if (config.max_num_sms > num_sms) {
    refuse(ncclInvalidUsage, "config.max_num_sms",
           "is " + number(config.max_num_sms) + ", expected at most " + number(num_sms) + ", the device's SMs");
  }
  if (!config.alloc.alloc_fn != !config.alloc.free_fn) {
    refuse(ncclInvalidUsage, "config.alloc",
           std::string(config.alloc.alloc_fn ? "alloc_fn" : "free_fn") + " is given alone, expected both or neither");
  }
}

void check_exact_combine(const ncclEpGroupConfig_t& config) {
  if (config.exact_combine == 0 || config.num_topk != 0) return;
  refuse(ncclInvalidArgument, "config.num_topk",
         "is 0, expected the largest top-k with config.exact_combine: there is room for so many rows of a token");
}

// What every rank must agree on, in the order of kAgreedNames.
constexpr std::array kAgreedNames = {
    "config.algorithm",   "config.num_experts",  "config.max_dispatch_tokens_per_rank", "config.max_token_bytes",
    "config.num_topk",    "config.zero_copy",    "config.max_recv_tokens_per_rank",     "config.overflow_policy",
    "config.enable_mask", "config.exact_combine"};
using AgreedValues = std::array<uint64_t, kAgreedNames.size()>;

uint64_t overflow_policy(const ncclEpGroupConfig_t& config) {
  return config.overflow_policy == NCCL_EP_OVERFLOW_AUTO ? NCCL_EP_OVERFLOW_TRAP : config.overflow_policy;
}

AgreedValues agreed_values(const ncclEpGroupConfig_t& config) {
  const bool has_budget = config.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT;
  return {static_cast<uint64_t>(config.algorithm),
          config.num_experts,
          config.max_dispatch_tokens_per_rank,
          config.max_token_bytes,
          config.num_topk,
          static_cast<uint64_t>(config.zero_copy),
          has_budget ? config.max_recv_tokens_per_rank : 0,
          has_budget ? overflow_policy(config) : 0u,
          config.enable_mask != 0,
          config.exact_combine != 0};
}

// What one rank tells the others.
struct Report {
  uint64_t has_failed;
  AgreedValues values;
};

void check_values(const Report& mine, const Report& other, uint32_t rank) {
  for (size_t i = 0; i < kAgreedNames.size(); ++i) {
    if (mine.values[i] == other.values[i]) continue;
    refuse(ncclInvalidArgument, kAgreedNames[i],
           "is " + number(mine.values[i]) + " here and " + number(other.values[i]) + " on rank " + number(rank) +
               ", expected the same on all ranks");
  }
}

void agree(runtime::Communicator& comm, const Report& mine, std::exception_ptr failure) {
  std::vector<Report> all(comm.num_ranks());
  const std::exception_ptr lost = failure_of([&] { comm.all_gather(&mine, all.data(), sizeof(Report)); });
  if (failure) std::rethrow_exception(failure);  // what comes first
  if (lost) std::rethrow_exception(lost);
  for (uint32_t rank = 0; rank < comm.num_ranks(); ++rank) {
    if (all[rank].has_failed) {
      refuse(ncclInvalidUsage, "config", "rank " + number(rank) + " could not create its part; its message says why");
    }
    check_values(mine, all[rank], rank);
  }
}

}  // namespace

void check_config(const ncclEpGroupConfig_t& config, runtime::Communicator& comm) {
  check_ranks(comm.num_ranks());
  check_experts(config, comm.num_ranks());
  check_rows(config, comm.num_ranks());
  check_device(config, comm.device().limits().num_sms);
  check_exact_combine(config);
}

void agree(runtime::Communicator& comm, std::exception_ptr failure) {
  agree(comm, Report{failure != nullptr, {}}, failure);
}

void agree(runtime::Communicator& comm, const ncclEpGroupConfig_t& config, std::exception_ptr failure) {
  agree(comm, Report{failure != nullptr, agreed_values(config)}, failure);
}

}  // namespace nccl_ep::core
