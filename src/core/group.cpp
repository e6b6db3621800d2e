// SPDX-License-Identifier: Apache-2.0
#include "core/group.hpp"

#include <array>
#include <atomic>
#include <cstdlib>
#include <exception>
#include <vector>

#include "core/checks.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint64_t kDefaultTimeoutNs = 100'000'000'000;  // 100 s
constexpr uint32_t kMaxTopk = 64;
constexpr uint32_t kMaxLocalExperts = 65536;

std::string number(uint64_t value) { return std::to_string(value); }

void check_config(const ncclEpGroupConfig_t& config, runtime::Communicator& comm) {
  const uint32_t num_ranks = comm.num_ranks();
  if (config.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT) {
    refuse(ncclInvalidUsage, "config.algorithm", "NCCL_EP_ALGO_HIGH_THROUGHPUT is not available in this version");
  }
  if (config.algorithm != NCCL_EP_ALGO_LOW_LATENCY) {
    refuse(ncclInvalidArgument, "config.algorithm",
           "is " + number(config.algorithm) + ", expected NCCL_EP_ALGO_LOW_LATENCY (0)");
  }
  if (config.num_experts == 0 || config.num_experts % num_ranks != 0) {
    refuse(ncclInvalidArgument, "config.num_experts",
           "is " + number(config.num_experts) + ", expected a positive multiple of the number of ranks (" +
               number(num_ranks) + ")");
  }
  if (config.num_experts / num_ranks > kMaxLocalExperts) {
    refuse(ncclInvalidArgument, "config.num_experts",
           "is " + number(config.num_experts) + ", expected at most " + number(kMaxLocalExperts) + " a rank");
  }
  if (config.max_dispatch_tokens_per_rank == 0) {
    refuse(ncclInvalidArgument, "config.max_dispatch_tokens_per_rank", "is 0, expected a positive number");
  }
  if (config.max_token_bytes == 0) {
    refuse(ncclInvalidArgument, "config.max_token_bytes", "is 0, expected the bytes of the largest token row");
  }
  if (config.num_topk > config.num_experts || config.num_topk > kMaxTopk) {
    refuse(ncclInvalidArgument, "config.num_topk",
           "is " + number(config.num_topk) + ", expected at most num_experts (" + number(config.num_experts) +
               ") and " + number(kMaxTopk));
  }
  const uint32_t num_sms = comm.device().limits().num_sms;
  if (config.max_num_sms > num_sms) {
    refuse(ncclInvalidUsage, "config.max_num_sms",
           "is " + number(config.max_num_sms) + ", expected at most " + number(num_sms) + ", the device's SMs");
  }
  if (!config.alloc.alloc_fn != !config.alloc.free_fn) {
    refuse(ncclInvalidUsage, "config.alloc",
           std::string(config.alloc.alloc_fn ? "alloc_fn" : "free_fn") + " is given alone, expected both or neither");
  }
  if (config.enable_mask) {
    refuse(ncclInvalidUsage, "config.enable_mask", "rank masks are not available in this version; expected 0");
  }
  if (config.zero_copy < NCCL_EP_ZERO_COPY_AUTO || config.zero_copy > NCCL_EP_ZERO_COPY_ON) {
    refuse(ncclInvalidArgument, "config.zero_copy", "is " + number(config.zero_copy) + ", expected AUTO, OFF or ON");
  }
  if (config.overflow_policy < NCCL_EP_OVERFLOW_AUTO || config.overflow_policy > NCCL_EP_OVERFLOW_DROP) {
    refuse(ncclInvalidArgument, "config.overflow_policy",
           "is " + number(config.overflow_policy) + ", expected AUTO, TRAP or DROP");
  }
  if (comm.lsa_size() != num_ranks) {
    refuse(ncclInvalidUsage, "comm",
           "its " + number(num_ranks) + " ranks form LSA teams of " + number(comm.lsa_size()) +
               "; more than one team needs GIN, which is not available in this version");
  }
}

plan::LlShape shape_of(const ncclEpGroupConfig_t& config, uint32_t num_ranks) {
  plan::LlShape shape;
  shape.num_ranks = num_ranks;
  shape.num_experts = config.num_experts;
  shape.max_tokens = config.max_dispatch_tokens_per_rank;
  shape.max_topk = config.num_topk ? config.num_topk : std::min(kMaxTopk, config.num_experts);
  shape.max_row_bytes = align_up(config.max_token_bytes, 16);
  return shape;
}

void check_buffer_size(const ncclEpGroupConfig_t& config, const LlLayout& layout) {
  if (config.rdma_buffer_size != NCCL_EP_AUTO && config.rdma_buffer_size < layout.size()) {
    refuse(ncclInvalidUsage, "config.rdma_buffer_size",
           "is " + number(config.rdma_buffer_size) + ", expected NCCL_EP_AUTO or at least " + number(layout.size()));
  }
}

// What every rank must agree on, in the order of kAgreedNames.
constexpr std::array kAgreedNames = {
    "config.algorithm",       "config.num_experts", "config.max_dispatch_tokens_per_rank",
    "config.max_token_bytes", "config.num_topk",    "config.zero_copy"};
struct Agreement {
  uint64_t refused = 0;  // this rank's own checks or preparations failed
  std::array<uint64_t, kAgreedNames.size()> values{};
};

Agreement agreement_of(const ncclEpGroupConfig_t& config) {
  return {0,
          {static_cast<uint64_t>(config.algorithm), config.num_experts, config.max_dispatch_tokens_per_rank,
           config.max_token_bytes, config.num_topk, static_cast<uint64_t>(config.zero_copy)}};
}

// Collective: throws on every rank if any rank refused, or if the configurations differ.
void agree(runtime::Communicator& comm, const Agreement& mine, std::exception_ptr failure) {
  std::vector<Agreement> all(comm.num_ranks());
  comm.all_gather(&mine, all.data(), sizeof(Agreement));
  if (failure) std::rethrow_exception(failure);
  for (uint32_t rank = 0; rank < comm.num_ranks(); ++rank) {
    if (all[rank].refused) {
      refuse(ncclInvalidUsage, "config", "rank " + number(rank) + " could not create its part; its message says why");
    }
    for (size_t i = 0; i < kAgreedNames.size(); ++i) {
      if (all[rank].values[i] != mine.values[i]) {
        refuse(ncclInvalidArgument, kAgreedNames[i],
               "is " + number(mine.values[i]) + " here and " + number(all[rank].values[i]) + " on rank " +
                   number(rank) + ", expected the same on all ranks");
      }
    }
  }
}

void barrier(runtime::Communicator& comm) {
  const uint8_t mine = 0;
  std::vector<uint8_t> all(comm.num_ranks());
  comm.all_gather(&mine, all.data(), sizeof(mine));
}

}  // namespace

std::unique_ptr<Group> Group::create(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config) {
  std::unique_ptr<Group> group(new Group);
  Agreement mine = agreement_of(config);
  std::exception_ptr failure;
  try {
    check_config(config, *comm);
    group->config_ = config;
    group->comm_ = std::move(comm);
    group->prepare();
  } catch (...) {
    mine.refused = 1;
    failure = std::current_exception();
  }
  runtime::Communicator& agreed = comm ? *comm : *group->comm_;
  agree(agreed, mine, failure);
  group->connect();
  return group;
}

// What this rank needs for itself: kernels first, since compiling may take a while and nobody should wait in a
// collective for it.
void Group::prepare() {
  ll_shape_ = shape_of(config_, comm_->num_ranks());
  check_buffer_size(config_, ll_shape_.layout());
  ll_tuning_ = plan::parse_ll_tuning(std::getenv("NCCL_EP_LL_TUNING"));
  const runtime::DeviceLimits& limits = device().limits();
  ll_limits_ = {config_.max_num_sms ? config_.max_num_sms : limits.num_sms, limits.max_threads_per_block,
                limits.max_shared_bytes_per_block};
  kernels_ = jit::load_ll_kernels(device());
  admit_kernels();
  allocator_ = std::make_unique<Allocator>(device(), config_.alloc);
  state_ = DeviceMemory(*allocator_, allocator_->allocate(sizeof(LlProgress), "group state"));
  fault_ = HostMemory(device(), device().allocate_host(sizeof(FaultRecord)));
  *fault_.as<FaultRecord>() = FaultRecord{};

  ll_state_.layout = ll_shape_.layout();
  ll_state_.progress = state_.as<LlProgress>();
  ll_state_.fault = fault_.as<FaultRecord>();
  ll_state_.timeout_ns = config_.timeout_ns ? config_.timeout_ns : kDefaultTimeoutNs;
  ll_state_.rank = comm_->rank();
  ll_state_.num_ranks = comm_->num_ranks();
  ll_state_.num_local_experts = ll_shape_.num_local_experts();
}

// Lets every kernel use what shared memory a plan may give it, and makes sure that a block fits on an SM.
void Group::admit_kernels() {
  const size_t shared_bytes = ll_limits_.max_shared_bytes - kLlMaxStaticSharedBytes;
  for (const jit::LlVariant& variant : jit::all_ll_variants()) {
    const uint32_t num_threads = std::min(jit::max_threads(variant), ll_limits_.max_threads_per_block);
    if (device().blocks_per_sm(kernels_.at(variant), {1, num_threads, shared_bytes}) == 0) {
      throw Error(ncclInternalError, jit::name(variant) + " does not fit on one of the device's SMs");
    }
  }
}

// Collective: the window, cleared on every rank before any rank may write into it.
void Group::connect() {
  const size_t bytes = ll_state_.layout.size();
  window_ = SymmetricMemory(*comm_, bytes);
  ll_state_.window = comm_->peers(window_.window(), 0);
  const cudaStream_t stream = device().own_stream();
  device().fill(window_.data(), 0, bytes, stream);
  device().fill(state_.data(), 0, sizeof(LlProgress), stream);
  device().synchronize(stream);
  barrier(*comm_);
}

Group::~Group() {
  if (!window_.data()) return;
  try {
    barrier(*comm_);  // nobody's kernels may still write into a window that is about to go
  } catch (const Error&) {
    // The communicator is broken; memory is released all the same.
  }
}

size_t Group::handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  return handle_layout(layout, config, num_topk).size();
}

LlHandleLayout Group::handle_layout(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  if (layout != NCCL_EP_LAYOUT_EXPERT_MAJOR && layout != NCCL_EP_LAYOUT_RANK_MAJOR) {
    refuse(ncclInvalidArgument, "layout",
           "is " + std::to_string(static_cast<int>(layout)) +
               ", expected NCCL_EP_LAYOUT_EXPERT_MAJOR (1) or NCCL_EP_LAYOUT_RANK_MAJOR (2) for Low Latency");
  }
  const uint32_t max_topk = std::min(ll_shape_.max_topk, ll_shape_.num_experts);
  if (num_topk < 1 || static_cast<uint32_t>(num_topk) > max_topk) {
    refuse(ncclInvalidArgument, "num_topk",
           "is " + std::to_string(num_topk) + ", expected 1 to " + number(max_topk) +
               (config_.num_topk ? " = config.num_topk of the group" : " = min(num_experts, 64)"));
  }
  const size_t alignment = config.dispatch_output_per_expert_alignment;
  if (alignment & (alignment - 1)) {
    refuse(ncclInvalidArgument, "config.dispatch_output_per_expert_alignment",
           "is " + number(alignment) + ", expected 0 or a power of two");
  }
  if (alignment > 1) {
    refuse(ncclInvalidUsage, "config.dispatch_output_per_expert_alignment",
           "is " + number(alignment) + ", expected 0 or 1: Low-Latency zones have a fixed size");
  }
  LlHandleLayout result{};
  result.num_ranks = ll_shape_.num_ranks;
  result.max_tokens = ll_shape_.max_tokens;
  result.max_hits = layout == NCCL_EP_LAYOUT_EXPERT_MAJOR
                        ? std::min(static_cast<uint32_t>(num_topk), ll_shape_.num_local_experts())
                        : 0;
  return result;
}

ncclResult_t Group::async_error() const noexcept {
  const auto code = std::atomic_ref(fault_.as<FaultRecord>()->code).load(std::memory_order_acquire);
  if (code == FaultRecord::kNone) return ncclSuccess;
  return code == FaultRecord::kTimeout ? ncclRemoteError : ncclInvalidArgument;
}

void Group::throw_if_faulted() const {
  const ncclResult_t code = async_error();
  if (code != ncclSuccess) throw Error(code, describe(*fault_.as<FaultRecord>(), ll_state_.timeout_ns));
}

}  // namespace nccl_ep::core
