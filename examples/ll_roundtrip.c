// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch and combine on four simulated GPUs, a thread for each. Experts return what they get,
// so every token must come home as it was. On real GPUs only the memory and the communicator come from
// elsewhere.
//
//   export PKG_CONFIG_PATH=$(python -m nccl_ep.paths libraries)/pkgconfig
//   cc ll_roundtrip.c -o ll_roundtrip $(pkg-config --cflags --libs nccl_ep_sim) -lpthread && ./ll_roundtrip
#define NCCL_EP_OWN_TYPES  // no CUDA or NCCL headers needed
#include <nccl_ep.h>
#include <nccl_ep_sim.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

enum { kRanks = 4, kExperts = 8, kLocal = kExperts / kRanks, kTokens = 16, kHidden = 256, kTopk = 2 };
static ncclEpSimCluster_t cluster;

#define OK(call) ((call) == ncclSuccess ? (void)0 : fail(#call))
static void fail(const char* call) {
  fprintf(stderr, "%s\n%s\n%s\n", call, ncclEpGetLastError(NULL), ncclEpSimGetLastError());
  exit(1);
}

// A tensor of 4-byte elements in the rank's device memory.
static ncclEpTensor_t* make_tensor(int rank, ncclDataType_t type, unsigned ndim, const size_t* sizes) {
  ncclEpTensor_t* tensor;
  size_t bytes = 4;
  for (unsigned i = 0; i < ndim; ++i) bytes *= sizes[i];
  OK(ncclEpTensorAlloc(&tensor, ndim, type, sizes, NULL));
  OK(ncclEpSimMalloc(cluster, rank, &tensor->data, bytes));
  return tensor;
}
#define TENSOR(type, ndim, ...) make_tensor(rank, type, ndim, (const size_t[]){__VA_ARGS__})

static void* run_rank(void* argument) {
  const int rank = *(int*)argument;
  OK(ncclEpSimRankEnter(cluster, rank));
  ncclComm_t comm;
  OK(ncclEpSimGetComm(cluster, rank, &comm));
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.num_experts = kExperts;
  config.max_dispatch_tokens_per_rank = kTokens;
  config.max_token_bytes = kHidden * sizeof(float);
  ncclEpGroup_t group;
  OK(ncclEpCreateGroup(&group, comm, &config));

  ncclEpTensor_t* tokens = TENSOR(ncclFloat32, 2, kTokens, kHidden);
  ncclEpTensor_t* result = TENSOR(ncclFloat32, 2, kTokens, kHidden);
  ncclEpTensor_t* topk_idx = TENSOR(ncclInt32, 2, kTokens, kTopk);
  ncclEpTensor_t* weights = TENSOR(ncclFloat32, 2, kTokens, kTopk);
  ncclEpTensor_t* received = TENSOR(ncclFloat32, 3, kLocal, kRanks * kTokens, kHidden);
  ncclEpTensor_t* counters = TENSOR(ncclInt32, 1, kLocal);
  for (int t = 0; t < kTokens; ++t) {
    for (int h = 0; h < kHidden; ++h) ((float*)tokens->data)[t * kHidden + h] = (float)(1000 * rank + t + h);
    for (int k = 0; k < kTopk; ++k) {
      ((int*)topk_idx->data)[t * kTopk + k] = (rank + t + 3 * k) % kExperts;
      ((float*)weights->data)[t * kTopk + k] = k == 0 ? 0.25f : 0.75f;
    }
  }

  ncclEpHandle_t handle;
  OK(ncclEpCreateHandle(&handle, group, NCCL_EP_LAYOUT_EXPERT_MAJOR, topk_idx, NULL, NULL, NULL));
  ncclEpDispatchInputs_t dispatch_in = NCCL_EP_DISPATCH_INPUTS_INIT;
  ncclEpDispatchOutputs_t dispatch_out = NCCL_EP_DISPATCH_OUTPUTS_INIT;
  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  dispatch_in.tokens = tokens;
  dispatch_out.tokens = received;
  info.expert_counters = counters;
  OK(ncclEpDispatch(handle, &dispatch_in, &dispatch_out, &info, NULL, NULL));

  // Here experts would turn each row of `received` into their result.
  ncclEpCombineInputs_t combine_in = NCCL_EP_COMBINE_INPUTS_INIT;
  ncclEpCombineOutputs_t combine_out = NCCL_EP_COMBINE_OUTPUTS_INIT;
  combine_in.tokens = received;
  combine_out.tokens = result;
  combine_out.topk_weights = weights;
  OK(ncclEpCombine(handle, &combine_in, &combine_out, NULL, NULL));
  OK(ncclEpSimStreamSynchronize(cluster, rank, NULL));

  int num_wrong = 0;
  for (int i = 0; i < kTokens * kHidden; ++i)
    num_wrong += ((float*)result->data)[i] != ((float*)tokens->data)[i];
  printf("rank %d: experts got %d and %d rows; %d of %d results are wrong\n", rank, ((int*)counters->data)[0],
         ((int*)counters->data)[1], num_wrong, kTokens * kHidden);

  ncclEpTensor_t* tensors[] = {tokens, result, topk_idx, weights, received, counters};
  for (int i = 0; i < 6; ++i) OK(ncclEpTensorDestroy(tensors[i]));  // their data goes with the cluster
  OK(ncclEpHandleDestroy(handle));
  OK(ncclEpGroupDestroy(group));
  OK(ncclEpSimRankLeave(cluster, rank));
  return num_wrong ? argument : NULL;
}

int main(void) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = kRanks;
  OK(ncclEpSimClusterCreate(&cluster, &config));
  pthread_t threads[kRanks];
  int ranks[kRanks], exit_code = 0;
  for (int r = 0; r < kRanks; ++r) {
    ranks[r] = r;
    pthread_create(&threads[r], NULL, run_rank, &ranks[r]);
  }
  for (int r = 0; r < kRanks; ++r) {
    void* failed;
    pthread_join(threads[r], &failed);
    if (failed) exit_code = 1;
  }
  OK(ncclEpSimClusterDestroy(cluster));
  return exit_code;
}
