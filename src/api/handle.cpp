// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <climits>

#include "api/decode.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

std::unique_ptr<ncclEpHandle> init_handle(ncclEpGroup& group, ncclEpLayout_t layout, const ncclEpHandleConfig_t* config,
                                          int num_topk, const ncclEpTensor_t* handle_mem) {
  decode_enum("layout", layout, NCCL_EP_LAYOUT_FLAT);
  const ncclEpHandleConfig_t current = decode_optional("config", config);
  auto result = std::make_unique<ncclEpHandle>(group);
  result->handle = group.group->create_handle(layout, current, num_topk, decode_tensor("handle_mem", handle_mem));
  return result;
}

void update_handle(ncclEpHandle& handle, const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info,
                   cudaStream_t stream) {
  const ncclEpLayoutInfo_t current = decode_optional("layout_info", layout_info);
  decode_tensor("layout_info.expert_counters", current.expert_counters);
  decode_tensor("layout_info.src_rank_counters", current.src_rank_counters);
  decode_tensor("layout_info.expert_offsets", current.expert_offsets);
  decode_tensor("layout_info.recv_total_counter", current.recv_total_counter);
  decode_tensor("layout_info.num_tokens", current.num_tokens);
  decode_enum("layout_info.recv_topk_idx_kind", current.recv_topk_idx_kind, NCCL_EP_EXPERT_ID_GLOBAL);
  handle.handle->update(decode_required_tensor("topk_idx", topk_idx), current, stream);
}

// K of a routing table.
int num_topk_of(const ncclEpTensor_t* topk_idx) {
  decode_required_tensor("topk_idx", topk_idx);
  if (topk_idx->ndim != 2) {
    refuse(ncclInvalidArgument, "topk_idx",
           "has " + std::to_string(topk_idx->ndim) + " dimensions, expected 2: [tokens, num_topk]");
  }
  return static_cast<int>(std::min<size_t>(topk_idx->sizes[1], INT_MAX));
}

}  // namespace

extern "C" ncclResult_t ncclEpHandleMemSize(ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                            const ncclEpHandleConfig_t* config, size_t* size_out, int num_topk) {
  return guarded("ncclEpHandleMemSize", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    require("size_out", size_out, "a place for the size");
    decode_enum("layout", layout, NCCL_EP_LAYOUT_FLAT);
    *size_out = ep_group->group->handle_bytes(layout, decode_optional("config", config), num_topk);
  });
}

extern "C" ncclResult_t ncclEpInitHandle(ncclEpHandle_t* handle, ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                         const ncclEpHandleConfig_t* config, int num_topk,
                                         const ncclEpTensor_t* handle_mem) {
  if (handle) *handle = nullptr;
  return guarded("ncclEpInitHandle", ep_group, [&] {
    require("handle", handle, "a place for the handle");
    require("ep_group", ep_group, "a group");
    *handle = init_handle(*ep_group, layout, config, num_topk, handle_mem).release();
  });
}

extern "C" ncclResult_t ncclEpUpdateHandle(ncclEpHandle_t handle, const ncclEpTensor_t* topk_idx,
                                           const ncclEpLayoutInfo_t* layout_info, cudaStream_t stream) {
  return guarded("ncclEpUpdateHandle", group_of(handle), [&] {
    require("handle", handle, "a handle");
    update_handle(*handle, topk_idx, layout_info, stream);
  });
}

extern "C" ncclResult_t ncclEpCreateHandle(ncclEpHandle_t* handle, ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                           const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info,
                                           const ncclEpHandleConfig_t* config, cudaStream_t stream) {
  if (handle) *handle = nullptr;
  return guarded("ncclEpCreateHandle", ep_group, [&] {
    require("handle", handle, "a place for the handle");
    require("ep_group", ep_group, "a group");
    const int num_topk = num_topk_of(topk_idx);
    ep_group->group->check_num_topk(num_topk, "topk_idx", "extent 1 ");
    auto result = init_handle(*ep_group, layout, config, num_topk, nullptr);
    update_handle(*result, topk_idx, layout_info, stream);
    *handle = result.release();
  });
}

extern "C" ncclResult_t ncclEpHandleDestroy(ncclEpHandle_t handle) {
  return guarded("ncclEpHandleDestroy", group_of(handle), [&] { delete handle; });
}

extern "C" ncclResult_t ncclEpComplete(ncclEpHandle_t handle, const ncclEpCompleteConfig_t* config,
                                       cudaStream_t stream) {
  return guarded("ncclEpComplete", group_of(handle), [&] {
    require("handle", handle, "a handle");
    decode_optional("config", config);
    handle->handle->complete(stream);
  });
}
