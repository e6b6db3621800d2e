// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch and combine on four simulated GPUs. Experts return what they get, so tokens come home
// as they were. On real GPUs only the memory and the communicator come from elsewhere.
//
//   export PKG_CONFIG_PATH=$(python -m nccl_ep.paths libraries)/pkgconfig
//   cc ll_roundtrip.c -o ll_roundtrip $(pkg-config --cflags --libs nccl_ep_sim) -lpthread && ./ll_roundtrip
#include "sim_ranks.h"

enum { kRanks = 4, kExperts = 8, kLocal = kExperts / kRanks, kTokens = 16, kHidden = 256, kTopk = 2 };

static void run_rank(ncclEpSimCluster_t cluster, int rank, ncclComm_t comm) {
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.num_experts = kExperts;
  config.max_dispatch_tokens_per_rank = kTokens;
  config.max_token_bytes = kHidden * sizeof(float);
  ncclEpGroup_t group;
  OK(ncclEpCreateGroup(&group, comm, &config));

  ncclEpTensor_t* tokens = TENSOR(ncclFloat32, 2, kTokens, kHidden);
  ncclEpTensor_t* topk_idx = TENSOR(ncclInt32, 2, kTokens, kTopk);
  ncclEpTensor_t* weights = TENSOR(ncclFloat32, 2, kTokens, kTopk);
  float* sent = tokens->data;
  for (int i = 0; i < kTokens * kHidden; ++i) sent[i] = (float)(10000 * rank + i);
  for (int i = 0; i < kTokens * kTopk; ++i) {
    ((int*)topk_idx->data)[i] = (rank + 3 * i) % kExperts;
    ((float*)weights->data)[i] = i % kTopk == 0 ? 0.25f : 0.75f;
  }
  ncclEpHandle_t handle;
  OK(ncclEpCreateHandle(&handle, group, NCCL_EP_LAYOUT_EXPERT_MAJOR, topk_idx, NULL, NULL, NULL));

  ncclEpDispatchInputs_t dispatch_in = NCCL_EP_DISPATCH_INPUTS_INIT;
  ncclEpDispatchOutputs_t dispatch_out = NCCL_EP_DISPATCH_OUTPUTS_INIT;
  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  dispatch_in.tokens = tokens;
  dispatch_out.tokens = TENSOR(ncclFloat32, 3, kLocal, kRanks * kTokens, kHidden);
  info.expert_counters = TENSOR(ncclInt32, 1, kLocal);
  OK(ncclEpDispatch(handle, &dispatch_in, &dispatch_out, &info, NULL, NULL));

  ncclEpCombineInputs_t combine_in = NCCL_EP_COMBINE_INPUTS_INIT;
  ncclEpCombineOutputs_t combine_out = NCCL_EP_COMBINE_OUTPUTS_INIT;
  combine_in.tokens = dispatch_out.tokens;  // here experts would work on them
  combine_out.tokens = TENSOR(ncclFloat32, 2, kTokens, kHidden);
  combine_out.topk_weights = weights;
  OK(ncclEpCombine(handle, &combine_in, &combine_out, NULL, NULL));
  OK(ncclEpSimStreamSynchronize(cluster, rank, NULL));

  const float* home = combine_out.tokens->data;
  const int* rows = info.expert_counters->data;
  for (int i = 0; i < kTokens * kHidden; ++i) {
    if (home[i] != sent[i]) fail("a token came home changed");
  }
  printf("rank %d: its experts got %d and %d rows, its tokens are home\n", rank, rows[0], rows[1]);
  OK(ncclEpHandleDestroy(handle));
  OK(ncclEpGroupDestroy(group));
}

int main(void) {
  run_sim_ranks(kRanks, run_rank);
  return 0;
}
