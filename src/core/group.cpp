// SPDX-License-Identifier: Apache-2.0
#include "core/group.hpp"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "core/agreement.hpp"
#include "core/checks.hpp"
#include "core/ht_group.hpp"
#include "core/ll_group.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint64_t kDefaultTimeoutNs = 100'000'000'000;  // 100 s

// Does what LSA teams need to reach one another.
template <class Work>
void across_teams(const runtime::Communicator& comm, Work work) {
  try {
    work();
  } catch (const Error& error) {
    throw Error(error.code(), "comm: its " + number(comm.num_ranks()) + " ranks form LSA teams of " +
                                  number(comm.lsa_size()) + ", and there is no network between them: " + error.what());
  }
}

std::unique_ptr<Group> make_group(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config) {
  if (config.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT) return std::make_unique<HtGroup>(std::move(comm), config);
  return std::make_unique<LlGroup>(std::move(comm), config);
}

}  // namespace

// Each step is done on all ranks or fails on all, so that nobody waits in a collective for one who does not come.
std::unique_ptr<Group> Group::create(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config) {
  std::unique_ptr<Group> group = make_group(std::move(comm), config);
  agree(group->comm(), nullptr);  // with the memory that it takes to agree at all, while there is some
  agree(group->comm(), config, failure_of([&] { group->prepare(); }));
  agree(group->comm(), failure_of([&] { group->open_window(); }));
  agree(group->comm(), failure_of([&] { group->connect(); }));
  group->is_complete_ = true;
  return group;
}

// What this rank needs for itself: kernels first, since compiling may take a while and nobody should wait in a
// collective for it. Memory last, and all that can be had before ranks meet.
void Group::prepare() {
  check_config(config_, *comm_);
  const uint64_t window_bytes = plan();
  allocator_ = std::make_unique<Allocator>(device(), config_.alloc);
  load();
  progress_ = DeviceMemory(*allocator_, allocator_->allocate(sizeof(GroupProgress), "group state"));
  faults_ = HostMemory(device(), device().allocate_host(sizeof(FaultRecords)));
  faults() = FaultRecords{};
  allocate_window(window_bytes);
}

void Group::allocate_window(uint64_t bytes) {
  try {
    window_ = SymmetricMemory(*comm_, bytes);
  } catch (const Error& error) {
    throw Error(error.code(), "config: " + number(bytes) + " bytes for the group's window, which follow from " +
                                  size_of_config() + ": " + error.what());
  }
}

std::string Group::size_of_config() const {
  const bool has_budget = config_.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT;
  return "max_dispatch_tokens_per_rank (" + number(config_.max_dispatch_tokens_per_rank) + "), " +
         (has_budget ? "max_recv_tokens_per_rank (" + number(config_.max_recv_tokens_per_rank) + "), " : "") +
         "max_token_bytes (" + number(config_.max_token_bytes) + "), num_experts (" + number(config_.num_experts) +
         "), num_topk (" + number(config_.num_topk) + (config_.num_topk ? "" : ", so " + number(max_topk())) +
         ") and " + number(comm_->num_ranks()) + " ranks";
}

// Collective: the window, cleared on every rank before any rank may write into it.
void Group::open_window() {
  window_.open();
  const cudaStream_t stream = device().own_stream();
  device().fill(window_.data(), 0, window_.bytes(), stream);
  device().fill(progress_.data(), 0, sizeof(GroupProgress), stream);
  device().synchronize(stream);
}

// A group that was not completed has run nothing, and its ranks do not meet.
Group::~Group() {
  if (!is_complete_) return;
  try {
    if (mask_ && (faults().lacks_ranks || !mask_->masked_ranks().empty())) return;  // the lost do not come
    agree(*comm_, nullptr);  // nobody's kernels may still write into a window that is about to go
  } catch (...) {
    // The communicator is broken, or the host has no memory left. What the group has is released all the same.
  }
}

void Group::prepare_network(const runtime::NetworkNeeds& needs) {
  across_teams(*comm_, [&] { network_ = comm_->make_network(needs); });
}

const GinComm& Group::connect_network() {
  across_teams(*comm_, [&] { network_->connect(); });
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

void Group::check_num_topk(int num_topk, const char* field, const char* subject) const {
  if (num_topk >= 1 && static_cast<uint32_t>(num_topk) <= max_topk()) return;
  const bool is_high_throughput = config_.algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT;
  refuse(is_high_throughput ? ncclInvalidUsage : ncclInvalidArgument, field,
         std::string(subject) + "is " + std::to_string(num_topk) + ", expected 1 to " + number(max_topk()) +
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
MaskProgress* Group::allocate_told(uint64_t bytes) {
  bytes += sizeof(MaskProgress);
  told_ = DeviceMemory(*allocator_, allocator_->allocate(bytes, "told ranks"));
  told_bytes_ = bytes;
  const cudaStream_t stream = device().own_stream();
  device().fill(told_.data(), 0, bytes, stream);
  device().synchronize(stream);
  return told_.as<MaskProgress>();
}

RankMask& Group::mask() {
  if (!mask_) refuse(ncclInvalidUsage, "ep_group", "has no rank masks, expected a group with config.enable_mask");
  return *mask_;
}

std::vector<int> Group::checked_mask(const int* mask) const {
  std::vector<int> checked(mask, mask + comm_->num_ranks());
  for (uint32_t rank = 0; rank < comm_->num_ranks(); ++rank) {
    if (checked[rank] == 0 || checked[rank] == 1) continue;
    refuse(ncclInvalidArgument, "mask",
           "entry " + number(rank) + " is " + std::to_string(mask[rank]) + ", expected 1 (active) or 0 (masked)");
  }
  checked[comm_->rank()] = 1;  // others may have masked it, and it learns of that from them
  return checked;
}

// Whom the caller calls active comes when the group is destroyed, whatever was lacking before.
void Group::update_mask(const int* mask, cudaStream_t stream) {
  RankMask& ranks = this->mask();
  const std::vector<int> active = checked_mask(mask);
  ranks.update(active.data(), stream);
  if (std::all_of(active.begin(), active.end(), [](int is_active) { return is_active != 0; })) {
    ranks.clear(&faults().lacks_ranks, stream);
  }
}

void Group::launch_cleaning(cudaStream_t stream) {
  launch_cleaner(jit::cleaning_variant(jit::Algorithm::low_latency, false), CleanArgs{group_state(), mask_meetings_},
                 stream);
}

void Group::clean_mask(cudaStream_t stream) {
  throw_if_faulted();
  RankMask& ranks = mask();
  if (device().is_capturing(stream)) {
    refuse(ncclInvalidUsage, "stream", "is being captured, expected one that is not: the host waits for it");
  }
  ++num_cleanings_;
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
