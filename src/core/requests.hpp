// SPDX-License-Identifier: Apache-2.0
// What src/api hands to src/core: the caller's structs after negotiation, with their oddities gone.
// Tensor pointers are the caller's own descriptors, already checked to be well formed; nullptr means not given.
#pragma once

#include <cstdint>

#include "nccl_ep.h"

namespace nccl_ep::core {

// The fields in a message's words.
constexpr const char* kRecipe = "config.quant_recipe";
constexpr const char* kTokens = "inputs.tokens";
constexpr const char* kWeights = "inputs.topk_weights";
constexpr const char* kScales = "inputs.scales";
constexpr const char* kOutTokens = "outputs.tokens";
constexpr const char* kOutWeights = "outputs.topk_weights";
constexpr const char* kOutIdx = "outputs.topk_idx";
constexpr const char* kOutScales = "outputs.scales";
constexpr const char* kExpertCounters = "layout_info.expert_counters";
constexpr const char* kSourceCounters = "layout_info.src_rank_counters";
constexpr const char* kOffsets = "layout_info.expert_offsets";
constexpr const char* kTotal = "layout_info.recv_total_counter";
constexpr const char* kNumTokens = "layout_info.num_tokens";

struct DispatchRequest {
  const ncclEpTensor_t* tokens = nullptr;
  const ncclEpTensor_t* topk_weights = nullptr;
  const ncclEpTensor_t* scales = nullptr;
  const ncclEpTensor_t* out_tokens = nullptr;
  const ncclEpTensor_t* out_topk_weights = nullptr;
  const ncclEpTensor_t* out_scales = nullptr;
  const ncclEpTensor_t* out_topk_idx = nullptr;
  const ncclEpTensor_t* expert_counters = nullptr;
  const ncclEpTensor_t* src_rank_counters = nullptr;
  const ncclEpTensor_t* expert_offsets = nullptr;
  const ncclEpTensor_t* recv_total_counter = nullptr;
  bool global_expert_ids = false;  // numbering of out_topk_idx
  bool send_only = false;
  bool round_scales = false;
  ncclEpPassDir_t pass_direction = NCCL_EP_FWD_PASS;
  ncclEpDispQuant_t recipe = NCCL_EP_DISP_QUANT_NONE;
};

struct CombineRequest {
  const ncclEpTensor_t* tokens = nullptr;
  const ncclEpTensor_t* topk_weights = nullptr;  // inputs.topk_weights
  const ncclEpTensor_t* scales = nullptr;
  const ncclEpTensor_t* out_tokens = nullptr;
  const ncclEpTensor_t* out_topk_weights = nullptr;  // outputs.topk_weights: LL expert-major reads it
  bool send_only = false;
  ncclEpPassDir_t pass_direction = NCCL_EP_FWD_PASS;
  ncclEpCombQuant_t recipe = NCCL_EP_COMB_QUANT_NONE;
};

}  // namespace nccl_ep::core
