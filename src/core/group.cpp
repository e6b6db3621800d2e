// SPDX-License-Identifier: Apache-2.0
#include "core/group.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <exception>
#include <vector>

#include "core/checks.hpp"
#include "core/ht_group.hpp"
#include "core/ll_group.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint64_t kDefaultTimeoutNs = 100'000'000'000;  // 100 s
constexpr uint32_t kMaxTopk = 64;
constexpr uint32_t kMaxLocalExperts = 65536;

void check_config(const ncclEpGroupConfig_t& config, runtime::Communicator& comm) {
  const uint32_t num_ranks = comm.num_ranks();
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
  if (config.zero_copy < NCCL_EP_ZERO_COPY_AUTO || config.zero_copy > NCCL_EP_ZERO_COPY_ON) {
    refuse(ncclInvalidArgument, "config.zero_copy", "is " + number(config.zero_copy) + ", expected AUTO, OFF or ON");
  }
  if (config.overflow_policy < NCCL_EP_OVERFLOW_AUTO || config.overflow_policy > NCCL_EP_OVERFLOW_DROP) {
    refuse(ncclInvalidArgument, "config.overflow_policy",
           "is " + number(config.overflow_policy) + ", expected AUTO, TRAP or DROP");
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
struct Agreement {
  uint64_t refused = 0;  // this rank's own checks or preparations failed
  std::array<uint64_t, kAgreedNames.size()> values{};
};

uint64_t overflow_policy(const ncclEpGroupConfig_t& config) {
  return config.overflow_policy == NCCL_EP_OVERFLOW_AUTO ? NCCL_EP_OVERFLOW_TRAP : config.overflow_policy;
}

Agreement agreement_of(const ncclEpGroupConfig_t& config) {
  const bool has_budget = config.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT;
  return {0,
          {static_cast<uint64_t>(config.algorithm), config.num_experts, config.max_dispatch_tokens_per_rank,
           config.max_token_bytes, config.num_topk, static_cast<uint64_t>(config.zero_copy),
           has_budget ? config.max_recv_tokens_per_rank : 0, has_budget ? overflow_policy(config) : 0u,
           config.enable_mask != 0, config.exact_combine != 0}};
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

std::unique_ptr<Group> make_group(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config) {
  if (config.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT) return std::make_unique<HtGroup>(std::move(comm), config);
  return std::make_unique<LlGroup>(std::move(comm), config);
}

}  // namespace

std::unique_ptr<Group> Group::create(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config) {
  std::unique_ptr<Group> group = make_group(std::move(comm), config);
  Agreement mine = agreement_of(config);
  std::exception_ptr failure;
  try {
    check_config(config, group->comm());
    check_exact_combine(config);
    group->prepare();
  } catch (...) {
    mine.refused = 1;
    failure = std::current_exception();
  }
  agree(group->comm(), mine, failure);
  group->connect();
  return group;
}

// What this rank needs for itself: kernels first, since compiling may take a while and nobody should wait in a
// collective for it.
void Group::prepare() {
  window_bytes_ = plan();
  allocator_ = std::make_unique<Allocator>(device(), config_.alloc);
  load();
  progress_ = DeviceMemory(*allocator_, allocator_->allocate(sizeof(GroupProgress), "group state"));
  faults_ = HostMemory(device(), device().allocate_host(sizeof(FaultRecords)));
  faults() = FaultRecords{};
}

// Collective: the window, cleared on every rank before any rank may write into it.
void Group::connect() {
  window_ = SymmetricMemory(*comm_, window_bytes_);
  const cudaStream_t stream = device().own_stream();
  device().fill(window_.data(), 0, window_bytes_, stream);
  device().fill(progress_.data(), 0, sizeof(GroupProgress), stream);
  device().synchronize(stream);
  barrier(*comm_);
}

Group::~Group() {
  if (!window_.data()) return;
  try {
    if (mask_ && (faults().lacks_ranks || !mask_->masked_ranks().empty())) return;  // the lost do not come
    barrier(*comm_);  // nobody's kernels may still write into a window that is about to go
  } catch (const Error&) {
    // The communicator is broken; memory is released all the same.
  }
}

const GinComm& Group::connect_network(const runtime::NetworkNeeds& needs) {
  try {
    network_ = comm_->connect_network(needs);
  } catch (const Error& error) {
    throw Error(error.code(), "comm: its " + number(comm_->num_ranks()) + " ranks form LSA teams of " +
                                  number(comm_->lsa_size()) +
                                  ", and there is no network between them: " + error.what());
  }
  return network_->comm();
}

std::vector<jit::Variant> Group::variants_of(jit::Algorithm algorithm) const {
  if (config_.exact_combine) return jit::exact_variants(algorithm, config_.enable_mask != 0, needs_network());
  if (config_.enable_mask) return jit::masked_variants(algorithm, needs_network());
  return jit::variants_of(algorithm, needs_network());
}

void Group::load_kernels(jit::Algorithm algorithm) {
  const std::vector<jit::Variant> variants = variants_of(algorithm);
  kernels_ = jit::load_kernels(device(), variants);
  const plan::Limits most = limits(device().limits().num_sms);
  for (const jit::Variant& variant : variants) {
    const uint32_t num_threads = std::min(jit::max_threads(variant), most.max_threads_per_block);
    if (device().blocks_per_sm(kernels_.at(variant), {1, num_threads, most.max_dynamic_shared()}) == 0) {
      throw Error(ncclInternalError, jit::name(variant) + " does not fit on one of the device's SMs");
    }
  }
}

GroupState Group::group_state() const {
  return {comm_->peers(window_.window(), 0),
          progress_.as<GroupProgress>(),
          &faults(),
          timeout_ns(),
          comm_->rank(),
          comm_->num_ranks(),
          config_.num_experts / comm_->num_ranks(),
          mask_ ? mask_->state() : nccl_ep::RankMask{}};
}

const char* Group::environment_variable(const char* variable) { return std::getenv(variable); }

plan::Shape Group::shape_of_config() const {
  return {comm_->num_ranks(),
          config_.num_experts,
          config_.max_dispatch_tokens_per_rank,
          max_topk(),
          align_up(config_.max_token_bytes, 16),
          config_.exact_combine != 0};
}

plan::Limits Group::limits(uint32_t num_sms) const {
  const runtime::DeviceLimits& limits = comm_->device().limits();
  return {std::min(num_sms, limits.num_sms), limits.max_threads_per_block, limits.max_shared_bytes_per_block};
}

uint64_t Group::timeout_ns() const { return config_.timeout_ns ? config_.timeout_ns : kDefaultTimeoutNs; }

uint32_t Group::max_topk() const {
  return config_.num_topk ? config_.num_topk : std::min(kMaxTopk, config_.num_experts);
}

void Group::check_exact_layout(ncclEpLayout_t layout) const {
  if (!config_.exact_combine || layout == NCCL_EP_LAYOUT_EXPERT_MAJOR) return;
  refuse(ncclInvalidUsage, "layout",
         "is " + std::to_string(static_cast<int>(layout)) +
             ", expected NCCL_EP_LAYOUT_EXPERT_MAJOR (1) in a group with config.exact_combine: in the other layout the "
             "caller adds up the rows of a rank's experts");
}

void Group::check_num_topk(int num_topk, ncclResult_t code) const {
  if (num_topk >= 1 && static_cast<uint32_t>(num_topk) <= max_topk()) return;
  refuse(code, "num_topk",
         "is " + std::to_string(num_topk) + ", expected 1 to " + number(max_topk()) +
             (config_.num_topk ? " = config.num_topk of the group" : " = min(num_experts, 64)"));
}

AsyncError Group::async_error() const {
  const ncclResult_t failure = result_of(faults().failure), loss = result_of(faults().loss);
  if (failure != ncclSuccess) return {failure, describe(faults().failure)};
  if (loss != ncclSuccess) return {loss, describe(faults().loss) + ", and goes on without it"};
  return {ncclSuccess, ""};
}

void Group::throw_if_faulted() const {
  const ncclResult_t code = result_of(faults().failure);
  if (code != ncclSuccess) throw Error(code, describe(faults().failure));
}

std::string Group::describe(const FaultRecord& fault) const {
  return core::describe(fault, timeout_ns(), config_.max_dispatch_tokens_per_rank);
}

void Group::add_mask(uint64_t life_at, const MaskMeetings& meetings) {
  mask_ = std::make_unique<RankMask>(device(), *allocator_, comm_->num_ranks(), life_at);
  mask_meetings_ = meetings;
}

// Nothing has been told yet.
MaskProgress* Group::remember_told(uint64_t bytes) {
  bytes += sizeof(MaskProgress);
  told_ = DeviceMemory(*allocator_, allocator_->allocate(bytes, "told ranks"));
  const cudaStream_t stream = device().own_stream();
  device().fill(told_.data(), 0, bytes, stream);
  device().synchronize(stream);
  return told_.as<MaskProgress>();
}

RankMask& Group::mask() {
  if (!mask_) refuse(ncclInvalidUsage, "ep_group", "has no rank masks, expected a group with config.enable_mask");
  return *mask_;
}

// Whom the caller calls active comes when the group is destroyed, whatever was lacking before.
void Group::update_mask(const int* mask, cudaStream_t stream) {
  RankMask& ranks = this->mask();
  ranks.update(mask, stream);
  const bool are_all_active = std::all_of(mask, mask + comm_->num_ranks(), [](int active) { return active != 0; });
  if (are_all_active) ranks.clear(&faults().lacks_ranks, stream);
}

void Group::launch_cleaning(cudaStream_t stream) {
  const CleanArgs args{group_state(), mask_meetings_};
  device().launch(kernels().at(jit::cleaning_variant(jit::Algorithm::low_latency, false)), kCleanLaunch, &args,
                  sizeof(args), stream);
}

void Group::clean_mask(cudaStream_t stream) {
  throw_if_faulted();
  RankMask& ranks = mask();
  launch_cleaning(stream);
  device().synchronize(stream);
  throw_if_faulted();
  faults().lacks_ranks = 0;
  std::string absent;
  for (uint32_t rank : ranks.masked_ranks()) absent += (absent.empty() ? "" : ", ") + number(rank);
  if (absent.empty()) return;
  throw Error(ncclRemoteError, "ranks " + absent + " have not called it too in time and stay masked");
}

// The record first: kernels write it only when nothing is said to be lost.
void Group::clear_error() {
  mask();
  faults().loss = FaultRecord{};
  const cudaStream_t stream = device().own_stream();
  device().fill(&progress_.as<GroupProgress>()->has_losses, 0, sizeof(uint32_t), stream);
  device().synchronize(stream);
}

}  // namespace nccl_ep::core
