// SPDX-License-Identifier: Apache-2.0
#include "core/ll_group.hpp"

#include <algorithm>

#include "core/checks.hpp"
#include "core/ll_handle.hpp"

namespace nccl_ep::core {
namespace {

void check_buffer_size(const ncclEpGroupConfig_t& config, uint64_t bytes) {
  if (config.rdma_buffer_size != NCCL_EP_AUTO && config.rdma_buffer_size < bytes) {
    refuse(ncclInvalidUsage, "config.rdma_buffer_size",
           "is " + number(config.rdma_buffer_size) + ", expected NCCL_EP_AUTO or at least " + number(bytes));
  }
}

}  // namespace

uint64_t LlGroup::plan() {
  shape_ = {shape_of_config(), comm().lsa_size()};
  tuning_ = plan::parse_ll_tuning(environment_variable("NCCL_EP_LL_TUNING"));
  limits_ = limits(config().max_num_sms ? config().max_num_sms : device().limits().num_sms);
  const uint64_t window_bytes = shape_.window_bytes();
  check_buffer_size(config(), window_bytes);
  return window_bytes;
}

void LlGroup::load() {
  load_kernels(jit::Algorithm::low_latency);
  if (config().enable_mask) add_mask(shape_.layout().life_at(0), shape_.layout().meetings());
  if (!needs_network()) return;
  prepare_network({plan::kLlNetworkContexts, LlSignals{shape_.num_ranks}.count(config().enable_mask), 0});
}

void LlGroup::connect() {
  state_ = {group_state(), shape_.layout()};
  if (!needs_network()) return;
  const GinComm& gin = connect_network();
  network_ = {gin,     window(), shape_.remote_layout(), comm().rank() - comm().lsa_rank(), comm().lsa_size(),
              nullptr, nullptr};
  if (has_masks()) remember_told(network_);
}

void LlGroup::launch_cleaning(cudaStream_t stream) {
  if (!needs_network()) return Group::launch_cleaning(stream);
  launch_cleaner(jit::cleaning_variant(jit::Algorithm::low_latency, true), LlCleanArgs{state_, network_}, stream);
}

void LlGroup::forget(const Handle* handle) {
  if (needs_network() && pending_.has(handle)) has_stray_messages_ = true;
  pending_.end(handle);
}

void LlGroup::clean_mask(cudaStream_t stream) {
  throw_if_faulted();
  if (pending_.are_any())
    refuse(ncclInvalidUsage, "ep_group", "has a send_only operation pending, expected ncclEpComplete first");
  Group::clean_mask(stream);
}

LlGroup::Zones LlGroup::zones(Layout layout) const {
  const size_t rows = shape_.max_tokens;
  if (layout == Layout::rank_major) return {{shape_.num_ranks, "ranks"}, {rows, "max_dispatch_tokens_per_rank"}};
  return {{shape_.num_local_experts(), "local experts"},
          {shape_.num_ranks * rows, "ranks x max_dispatch_tokens_per_rank"}};
}

void LlGroup::check_layout(ncclEpLayout_t layout) const {
  if (layout != NCCL_EP_LAYOUT_EXPERT_MAJOR && layout != NCCL_EP_LAYOUT_RANK_MAJOR) {
    refuse(ncclInvalidArgument, "layout",
           "is " + std::to_string(static_cast<int>(layout)) +
               ", expected NCCL_EP_LAYOUT_EXPERT_MAJOR (1) or NCCL_EP_LAYOUT_RANK_MAJOR (2) for Low Latency");
  }
  check_exact_layout(layout);
}

LlHandleLayout LlGroup::handle_layout(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  check_layout(layout);
  check_num_topk(num_topk);
  const size_t alignment = config.dispatch_output_per_expert_alignment;
  check_power_of_two("config.dispatch_output_per_expert_alignment", alignment);
  if (alignment > 1) {
    refuse(ncclInvalidUsage, "config.dispatch_output_per_expert_alignment",
           "is " + number(alignment) + ", expected 0 or 1: Low-Latency zones have a fixed size");
  }
  return shape_.handle_layout(static_cast<Layout>(layout), static_cast<uint32_t>(num_topk));
}

size_t LlGroup::handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const {
  return shape_.handle_bytes(handle_layout(layout, config, num_topk));
}

RowPaths LlGroup::row_paths(ncclEpLayout_t c_layout, const ncclEpCapabilityQuery_t& query) const {
  check_layout(c_layout);
  const Layout layout = static_cast<Layout>(c_layout);
  const RowProbe probe =
      layout == Layout::expert_major
          ? RowProbe(query, {shape_.num_local_experts(), size_t{shape_.num_ranks} * shape_.max_tokens})
          : RowProbe(query, {shape_.num_ranks, shape_.max_tokens});
  return query.operation == NCCL_EP_OPERATION_DISPATCH ? check_rows(layout, probe.dispatch(), 1).paths
                                                       : check_rows(layout, probe.combine());
}

std::unique_ptr<Handle> LlGroup::create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                               const ncclEpTensor_t* handle_mem) {
  throw_if_faulted();
  return std::make_unique<LlHandle>(*this, layout, handle_layout(layout, config, num_topk),
                                    static_cast<uint32_t>(num_topk), handle_mem);
}

}  // namespace nccl_ep::core
