// SPDX-License-Identifier: Apache-2.0
#include "core/recipes.hpp"

#include <vector>

namespace nccl_ep::core {
namespace {

void check_config(const DispatchRequest& request) {
  if (!request.round_scales || request.recipe == NCCL_EP_DISP_QUANT_DS_FP8E3M4) return;
  refuse(ncclInvalidArgument, "config.round_scales",
         "is set, expected 0 unless config.quant_recipe is NCCL_EP_DISP_QUANT_DS_FP8E3M4 (2)");
}

size_t last_extent(const ncclEpTensor_t* tensor) {
  return tensor && tensor->ndim > 1 ? tensor->sizes[tensor->ndim - 1] : 0;
}

void check_tokens(const DispatchRequest& request, size_t num_tokens, std::initializer_list<ncclDataType_t> dtypes) {
  check_tensor(kTokens, request.tokens, dtypes,
               {{num_tokens, "tokens of topk_idx"}, {last_extent(request.tokens), "hidden"}});
}

// Of rows that a recipe quantizes; `what` is their extent in the message's words, `why` what each multiple is.
void check_multiple(const char* what, size_t hidden, uint32_t of, const char* why) {
  if (hidden != 0 && hidden % of == 0) return;
  refuse(ncclInvalidArgument, kTokens,
         what + (" is " + number(hidden)) + ", expected a positive multiple of " + number(of) + ", " + why);
}

SentRows check_plain(const DispatchRequest& request, size_t num_tokens) {
  check_absent(kScales, request.scales, "NCCL_EP_DISP_QUANT_NONE has no scales");
  check_tokens(request, num_tokens, {ncclBfloat16, ncclFloat16, ncclFloat32});
  return {request.tokens->datatype, last_extent(request.tokens), ncclFloat32, 0, false};
}

// A combine without a recipe, and so without scales.
void check_plain(const CombineRequest& request) {
  if (request.recipe != NCCL_EP_COMB_QUANT_NONE) {
    refuse(ncclInvalidUsage, "config.quant_recipe",
           "is " + std::to_string(static_cast<int>(request.recipe)) +
               ", expected NCCL_EP_COMB_QUANT_NONE (0): this recipe is not available here");
  }
  check_absent("inputs.scales", request.scales, "NCCL_EP_COMB_QUANT_NONE has no scales");
}

SentRows check_forwarded(const DispatchRequest& request, size_t num_tokens) {
  check_tokens(request, num_tokens,
               {ncclBfloat16, ncclFloat16, ncclFloat32, ncclFloat8e4m3, ncclFloat8e5m2, ncclFloat4x2});
  const size_t num_scales = last_extent(request.scales);
  check_tensor(kScales, request.scales,
               {ncclFloat32, ncclFloat16, ncclBfloat16, ncclFloat8e4m3, ncclFloat8e5m2, ncclUint8},
               {{num_tokens, "tokens of topk_idx"}, {num_scales, "scales of a row"}});
  if (num_scales == 0) refuse(ncclInvalidArgument, kScales, "extent 1 is 0, expected at least 1 scale for a row");
  return {request.tokens->datatype, last_extent(request.tokens), request.scales->datatype, num_scales, false};
}

SentRows check_quantized(const DispatchRequest& request, size_t num_tokens) {
  check_absent(kScales, request.scales, "NCCL_EP_DISP_QUANT_DS_FP8E3M4 makes the scales");
  check_tokens(request, num_tokens, {ncclBfloat16});
  const size_t hidden = last_extent(request.tokens);
  check_multiple("extent 1", hidden, kScaleGroup, "the elements that share a scale in NCCL_EP_DISP_QUANT_DS_FP8E3M4");
  return {ncclFloat8e4m3, hidden, ncclFloat32, hidden / kScaleGroup, true};
}

SentRows check_by_recipe(const DispatchRequest& request, size_t num_tokens) {
  switch (request.recipe) {
    case NCCL_EP_DISP_QUANT_NONE: return check_plain(request, num_tokens);
    case NCCL_EP_DISP_QUANT_FWD: return check_forwarded(request, num_tokens);
    case NCCL_EP_DISP_QUANT_DS_FP8E3M4: return check_quantized(request, num_tokens);
  }
  refuse(ncclInvalidArgument, kRecipe, "is " + number(request.recipe) + ", expected 0 to 2");
}

}  // namespace

Extent SentRows::scales_extent() const {
  return {num_scales, quantizes ? "hidden of inputs.tokens / 128" : "scales of a row of inputs.scales"};
}

SentRows check_sent_rows(const DispatchRequest& request, size_t num_tokens, uint64_t max_token_bytes) {
  check_config(request);
  const SentRows rows = check_by_recipe(request, num_tokens);
  check_row(kTokens, rows.hidden, rows.dtype, rows.scale_bytes(), max_token_bytes);
  return rows;
}

void check_combine_recipe(const CombineRequest& request, size_t hidden, bool is_exact) {
  if (is_exact || request.recipe == NCCL_EP_COMB_QUANT_NONE) {
    check_plain(request);
    return;
  }
  check_dtype(kTokens, *request.tokens, {ncclBfloat16});
  if (request.recipe == NCCL_EP_COMB_QUANT_NVFP4) {
    check_multiple("hidden", hidden, 2 * kNvfp4Group, "whose numbers are 16 bytes in NCCL_EP_COMB_QUANT_NVFP4");
  } else {
    check_absent(kScales, request.scales, "NCCL_EP_COMB_QUANT_FP8 makes the scales");
    check_multiple("hidden", hidden, kScaleGroup, "the elements that share a scale in NCCL_EP_COMB_QUANT_FP8");
  }
}

void check_received_scales(const DispatchRequest& request, const SentRows& rows,
                           std::initializer_list<Extent> extents) {
  if (rows.num_scales == 0) {
    check_absent(kOutScales, request.out_scales, "NCCL_EP_DISP_QUANT_NONE has no scales");
  } else {
    check_tensor(kOutScales, request.out_scales, {rows.scale_dtype}, extents);
  }
}

void* address_of_scales(const char* field, const ncclEpTensor_t* scales, runtime::Communicator& comm) {
  return scales ? address_of(field, *scales, comm, element_bytes(scales->datatype)) : nullptr;
}

}  // namespace nccl_ep::core
