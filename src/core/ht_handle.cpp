// SPDX-License-Identifier: Apache-2.0
#include "core/ht_handle.hpp"

#include <algorithm>
#include <atomic>

namespace nccl_ep::core {

HtHandle::HtHandle(HtGroup& group, Layout layout, const ncclEpHandleConfig_t& config,
                   const HtHandleLayout& memory_layout, const ncclEpTensor_t* handle_mem)
    : Handle(group, memory_layout.size(), handle_mem),
      group_(group),
      layout_(layout),
      state_{memory_layout, memory()},
      alignment_(static_cast<uint32_t>(std::max<size_t>(1, config.dispatch_output_per_expert_alignment))),
      host_totals_(group.host_totals()) {}

void HtHandle::complete(cudaStream_t) { group_.throw_if_faulted(); }

// Whether the host has the totals of the last update, and no graph can make them others.
bool HtHandle::knows_totals() const {
  if (was_captured_) return false;
  return std::atomic_ref(host_totals_.data()->update).load(std::memory_order_acquire) == num_updates_;
}

uint64_t HtHandle::received_rows(cudaStream_t stream) {
  if (!knows_totals()) {
    group_.device().synchronize(stream);
    group_.throw_if_faulted();
    if (!was_captured_ && !knows_totals()) {
      throw Error(ncclInvalidUsage,
                  "the handle's routing is not known yet, expected a stream that waits for ncclEpUpdateHandle's");
    }
  }
  return host_totals_.data()->totals.num_slots;
}

Extent HtHandle::output_rows(cudaStream_t stream) {
  const uint32_t budget = group_.shape().budget;
  if (budget) return {budget, "max_recv_tokens_per_rank", Extent::at_least};
  if (group_.device().is_capturing(stream)) {
    throw Error(ncclInvalidUsage,
                "the stream is capturing, expected a group with config.max_recv_tokens_per_rank: without it, outputs "
                "have as many rows as the host finds at each call");
  }
  return {received_rows(stream), "rows that this rank receives", Extent::at_least};
}

// A budget's worth of rows is always enough. Who gives fewer must have those that are there. Nobody can be asked how many
// that will be when a graph runs; without a budget, those of an update outside of it count, if it has run.
Extent HtHandle::input_rows(const ncclEpTensor_t* tokens, cudaStream_t stream) {
  const uint32_t budget = group_.shape().budget;
  const size_t given = tokens && tokens->ndim > 0 ? tokens->sizes[0] : 0;
  const bool enough_for_all = budget && given >= budget;
  const bool cannot_ask = group_.device().is_capturing(stream) && (budget || !knows_totals());
  if (enough_for_all || cannot_ask) {
    return {budget, "max_recv_tokens_per_rank", Extent::at_least};
  }
  return {received_rows(stream), "rows that this rank has received", Extent::at_least};
}

PeerWindow HtHandle::window_of(const char* field, const ncclEpTensor_t& tensor, const RowPath& path, size_t alignment) {
  if (!path.is_direct()) return {};
  if (tensor.win_offset % alignment != 0) {
    refuse(ncclInvalidArgument, field,
           "win_offset is " + number(tensor.win_offset) + ", expected a multiple of " + number(alignment));
  }
  return group_.by_world_rank(peers_of(field, tensor, group_.comm()));
}

}  // namespace nccl_ep::core
