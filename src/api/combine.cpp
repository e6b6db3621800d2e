// SPDX-License-Identifier: Apache-2.0
#include "api/decode.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

void decode(core::CombineRequest& request, const ncclEpCombineInputs_t& inputs) {
  request.tokens = decode_required_tensor("inputs.tokens", inputs.tokens);
  request.topk_weights = decode_tensor("inputs.topk_weights", inputs.topk_weights);
  request.scales = decode_tensor("inputs.scales", inputs.scales);
}

void decode(core::CombineRequest& request, const ncclEpCombineOutputs_t& outputs) {
  request.out_tokens = decode_required_tensor("outputs.tokens", outputs.tokens);
  request.out_topk_weights = decode_tensor("outputs.topk_weights", outputs.topk_weights);
}

void decode(core::CombineRequest& request, const ncclEpCombineConfig_t& config) {
  request.send_only = config.send_only != 0;
  request.pass_direction = decode_enum("config.pass_direction", config.pass_direction, NCCL_EP_BWD_PASS);
  request.recipe = decode_enum("config.quant_recipe", config.quant_recipe, NCCL_EP_COMB_QUANT_FP8);
}

}  // namespace

extern "C" ncclResult_t ncclEpCombine(ncclEpHandle_t handle, const ncclEpCombineInputs_t* inputs,
                                      const ncclEpCombineOutputs_t* outputs, const ncclEpCombineConfig_t* config,
                                      cudaStream_t stream) {
  return guarded("ncclEpCombine", group_of(handle), [&] {
    require("handle", handle, "a handle");
    core::CombineRequest request;
    decode(request, decode_required("inputs", inputs));
    decode(request, decode_required("outputs", outputs));
    decode(request, decode_optional("config", config));
    handle->handle->combine(request, stream);
  });
}
