// SPDX-License-Identifier: Apache-2.0
#include "core/ht_group.hpp"

#include <algorithm>

#include "core/checks.hpp"
#include "core/ht_handle.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint32_t kNetworkContexts = 4;  // chunks for one rail peer have so many ways to go side by side
constexpr uint32_t kFlatSms = 16;         // enough to fill the links
constexpr uint32_t kManySms = 32;  // and to copy and sum what a row has for several experts, or to quantize tokens;
                                   // with two ranks, to copy and sum: half of the rows stay where they are
constexpr uint32_t kQuantizingSms = 64;  // and to quantize rows, of which each token has several

void check_config(const ncclEpGroupConfig_t& config) {
  if (config.max_token_bytes % 16 != 0) {
    refuse(ncclInvalidArgument, "config.max_token_bytes",
           "is " + number(config.max_token_bytes) + ", expected a multiple of 16 for High Throughput");
  }
  const uint32_t budget = config.max_recv_tokens_per_rank;
  if (budget != 0 && budget < config.max_dispatch_tokens_per_rank) {
    refuse(ncclInvalidArgument, "config.max_recv_tokens_per_rank",
           "is " + number(budget) + ", expected NCCL_EP_AUTO or at least " +
               number(config.max_dispatch_tokens_per_rank) + " = max_dispatch_tokens_per_rank");
  }
  if (config.overflow_policy == NCCL_EP_OVERFLOW_DROP && budget == 0) {
    refuse(ncclInvalidArgument, "config.overflow_policy",
           "is NCCL_EP_OVERFLOW_DROP, expected AUTO or TRAP without max_recv_tokens_per_rank: nothing can overflow");
  }
}

}  // namespace

// Rows and slots are numbered in 32 bits.
void HtGroup::check_sizes() const {
  // With masks across teams, a rank's tokens for the experts of another one.
  const uint64_t tokens_of_experts = uint64_t{shape_.num_local_experts()} * shape_.max_tokens;
  if (shape_.masks && needs_network() && tokens_of_experts > UINT32_MAX) {
    refuse(ncclInvalidArgument, "config.max_dispatch_tokens_per_rank",
           "is " + number(shape_.max_tokens) + " with " + number(shape_.num_local_experts()) +
               " experts a rank, expected a product of at most " + number(UINT32_MAX) +
               " with config.enable_mask for ranks in several LSA teams");
  }
  if (shape_.exact_combine && needs_network()) check_parcels();
  const uint64_t rows = uint64_t{shape_.num_ranks} * shape_.max_tokens;
  const uint64_t max_hits = std::min(shape_.max_topk, shape_.num_local_experts());
  if (rows * max_hits <= UINT32_MAX) return;
  refuse(ncclInvalidArgument, "config.max_dispatch_tokens_per_rank",
         "is " + number(shape_.max_tokens) + ", so that a rank may receive " + number(rows) + " tokens for " +
             number(max_hits) + " experts each; expected at most " + number(UINT32_MAX) + " rows");
}

// With exact_combine they have a row for each hit in a team, and bytes in 32 bits.
void HtGroup::check_parcels() const {
  const HtLayout window = shape_.layout();
  const uint64_t most = (UINT32_MAX - HtRemoteLayout::kAlign - sizeof(float) * shape_.max_topk) /
                        window.team_rows_of(shape_.max_topk) / HtLayout::kAlign * HtLayout::kAlign;
  if (window.row_bytes <= most) return;
  refuse(ncclInvalidArgument, "config.max_token_bytes",
         "is " + number(config().max_token_bytes) + ", expected at most " + number(most) +
             " with config.exact_combine and top-" + number(shape_.max_topk) + " for ranks in several LSA teams");
}

uint64_t HtGroup::plan() {
  check_config(config());
  shape_ = {shape_of_config(), comm().lsa_size(), config().max_recv_tokens_per_rank,
            config().overflow_policy == NCCL_EP_OVERFLOW_DROP, config().enable_mask != 0};
  check_sizes();
  tuning_ = plan::parse_ht_tuning(environment_variable("NCCL_EP_HT_TUNING"));
  update_limits_ = limits_of(device().limits().num_sms, ht_update_threads(needs_network()));
  const uint32_t move_threads = ht_move_threads(needs_network(), shape_.masks);
  flat_limits_ = limits_of(shape_.num_ranks > 2 ? kFlatSms : kManySms, move_threads);
  wide_limits_ = limits_of(kManySms, move_threads);
  quantizing_limits_ = limits_of(kQuantizingSms, move_threads);
  // A device that is too small says so here.
  plan::plan_ht_update(shape_, shape_.max_tokens, update_limits_, tuning_);
  plan::plan_ht_combine(Layout::flat, shape_.max_row_bytes, flat_limits_, tuning_);
  num_block_counts_ = size_t{plan::max_ht_update_blocks(shape_, update_limits_)} * shape_.layout().block_count_units();
  return shape_.window_bytes();
}

// `num_sms` where the configuration leaves it open.
plan::Limits HtGroup::limits_of(uint32_t num_sms, uint32_t max_threads) const {
  plan::Limits it = limits(config().max_num_sms ? config().max_num_sms : num_sms);
  it.max_threads_per_block = std::min(it.max_threads_per_block, max_threads);
  return it;
}

void HtGroup::load() {
  load_kernels(jit::Algorithm::high_throughput);
  if (config().enable_mask) add_mask(shape_.layout().life_at(0), shape_.layout().meetings());
  const HtRemoteLayout remote = shape_.remote_layout();
  num_parcel_chunks_ = size_t{remote.num_teams} * remote.num_chunks();
  const size_t num_words = kTurns + num_parcel_chunks_ + shape_.max_tokens;
  const size_t bytes =
      sizeof(Unit) * num_block_counts_ + sizeof(uint32_t) * num_words + sizeof(HtPushed) * kTurns * shape_.num_ranks;
  work_ = DeviceMemory(allocator(), allocator().allocate(bytes, "group state"));
  const cudaStream_t stream = device().own_stream();
  device().fill(work_.data(), 0, bytes, stream);
  device().synchronize(stream);  // a group that is refused gives the memory back
  if (!needs_network()) return;
  // All ranks meet where masks are cleaned.
  using Reach = runtime::NetworkNeeds::Reach;
  prepare_network({kNetworkContexts, HtSignals{shape_.num_ranks}.count(shape_.masks), 0,
                   shape_.masks ? Reach::world : Reach::rail});
}

void HtGroup::connect() {
  state_ = {group_state(), shape_.layout(), comm().rank() - comm().lsa_rank()};
  state_.window = by_world_rank(state_.window);
  if (!needs_network()) return;
  const GinComm& gin = connect_network();
  network_ = {gin, window(), shape_.remote_layout(), state_.first_rank, shape_.team_size, nullptr, nullptr};
  if (has_masks()) remember_told(network_);
}

void HtGroup::launch_cleaning(cudaStream_t stream) {
  if (!needs_network()) return Group::launch_cleaning(stream);
  launch_cleaner(jit::cleaning_variant(jit::Algorithm::high_throughput, true), HtCleanArgs{state_, network_}, stream);
}

PeerWindow HtGroup::by_world_rank(const PeerWindow& of_team) {
  return {of_team.base - (comm().rank() - comm().lsa_rank()) * of_team.stride, of_team.stride};
}

void HtGroup::check_layout(ncclEpLayout_t layout) const {
  if (layout != NCCL_EP_LAYOUT_EXPERT_MAJOR && layout != NCCL_EP_LAYOUT_FLAT) {
    refuse(ncclInvalidArgument, "layout",
           "is " + std::to_string(static_cast<int>(layout)) +
               ", expected NCCL_EP_LAYOUT_EXPERT_MAJOR (1) or NCCL_EP_LAYOUT_FLAT (3) for High Throughput");
  }
  check_exact_layout(layout);
}

void HtGroup::check_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  check_layout(layout);
  check_num_topk(num_topk);
  const bool is_expert_major = layout == NCCL_EP_LAYOUT_EXPERT_MAJOR;
  if (is_expert_major && shape_.budget == 0 && this->config().num_topk == 0) {
    refuse(ncclInvalidUsage, "config.num_topk",
           "of the group is 0, expected the largest top-k for expert-major handles without max_recv_tokens_per_rank");
  }
  const char* field = "config.dispatch_output_per_expert_alignment";
  const uint64_t alignment = config.dispatch_output_per_expert_alignment;
  check_power_of_two(field, alignment);
  if (alignment > 1 && !is_expert_major) {
    refuse(ncclInvalidUsage, field,
           "is " + number(alignment) + ", expected 0 or 1: the flat layout has no rows of an expert");
  }
  const uint64_t most = UINT32_MAX - uint64_t{shape_.num_ranks} * shape_.max_tokens *
                                         std::min<uint32_t>(num_topk, shape_.num_local_experts());
  if (alignment > 1 && alignment - 1 > most / shape_.num_local_experts()) {
    refuse(ncclInvalidArgument, field,
           "is " + number(alignment) + ", expected at most " + number(most / shape_.num_local_experts() + 1));
  }
}

size_t HtGroup::handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  check_handle(layout, config, num_topk);
  return HtHandleLayout::make(shape_.layout(), static_cast<uint32_t>(num_topk)).size();
}

RowPaths HtGroup::row_paths(ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) const {
  check_layout(layout);
  const RowProbe probe(query, {1});
  return query.operation == NCCL_EP_OPERATION_DISPATCH
             ? check_rows(static_cast<Layout>(layout), probe.dispatch(), 1).paths
             : check_rows(probe.combine(), {1, "rows"});
}

std::unique_ptr<Handle> HtGroup::create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                               const ncclEpTensor_t* handle_mem) {
  throw_if_faulted();
  check_handle(layout, config, num_topk);
  return std::make_unique<HtHandle>(*this, static_cast<Layout>(layout), config,
                                    HtHandleLayout::make(shape_.layout(), static_cast<uint32_t>(num_topk)), handle_mem);
}

}  // namespace nccl_ep::core
