// SPDX-License-Identifier: Apache-2.0
#include "api/decode.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

void decode(core::DispatchRequest& request, const ncclEpDispatchInputs_t& inputs) {
  request.tokens = decode_required_tensor("inputs.tokens", inputs.tokens);
  request.topk_weights = decode_tensor("inputs.topk_weights", inputs.topk_weights);
  request.scales = decode_tensor("inputs.scales", inputs.scales);
}

void decode(core::DispatchRequest& request, const ncclEpDispatchOutputs_t& outputs) {
  request.out_tokens = decode_required_tensor("outputs.tokens", outputs.tokens);
  request.out_topk_weights = decode_tensor("outputs.topk_weights", outputs.topk_weights);
  request.out_scales = decode_tensor("outputs.scales", outputs.scales);
  request.out_topk_idx = decode_tensor("outputs.topk_idx", outputs.topk_idx);
}

void decode(core::DispatchRequest& request, const ncclEpLayoutInfo_t& info) {
  request.expert_counters = decode_tensor("layout_info.expert_counters", info.expert_counters);
  request.src_rank_counters = decode_tensor("layout_info.src_rank_counters", info.src_rank_counters);
  request.expert_offsets = decode_tensor("layout_info.expert_offsets", info.expert_offsets);
  request.recv_total_counter = decode_tensor("layout_info.recv_total_counter", info.recv_total_counter);
  if (info.num_tokens) {
    refuse(ncclInvalidArgument, "layout_info.num_tokens", "is given, expected NULL: ncclEpUpdateHandle takes it");
  }
  request.global_expert_ids = decode_enum("layout_info.recv_topk_idx_kind", info.recv_topk_idx_kind,
                                          NCCL_EP_EXPERT_ID_GLOBAL) == NCCL_EP_EXPERT_ID_GLOBAL;
}

void decode(core::DispatchRequest& request, const ncclEpDispatchConfig_t& config) {
  request.send_only = config.send_only != 0;
  request.round_scales = config.round_scales != 0;
  request.pass_direction = decode_enum("config.pass_direction", config.pass_direction, NCCL_EP_BWD_PASS);
  request.recipe = decode_enum("config.quant_recipe", config.quant_recipe, NCCL_EP_DISP_QUANT_DS_FP8E3M4);
}

}  // namespace

extern "C" ncclResult_t ncclEpDispatch(ncclEpHandle_t handle, const ncclEpDispatchInputs_t* inputs,
                                       const ncclEpDispatchOutputs_t* outputs, const ncclEpLayoutInfo_t* layout_info,
                                       const ncclEpDispatchConfig_t* config, cudaStream_t stream) {
  return guarded("ncclEpDispatch", group_of(handle), [&] {
    require("handle", handle, "a handle");
    core::DispatchRequest request;
    decode(request, decode_required("inputs", inputs));
    decode(request, decode_required("outputs", outputs));
    decode(request, decode_optional("layout_info", layout_info));
    decode(request, decode_optional("config", config));
    handle->handle->dispatch(request, stream);
  });
}
