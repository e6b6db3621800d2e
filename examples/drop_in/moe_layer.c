// SPDX-License-Identifier: Apache-2.0
// An MoE layer in Low Latency and in High Throughput, with nothing of nccl_ep.h but what NCCL EP 0.2 has. So it is built
// against either header and runs with either library: `moe_layer RANKS`. Expert e multiplies by e + 1.
#include <stdio.h>
#include <stdlib.h>

#include "gpus.h"

enum { kTokens = 16, kTopk = 2, kHidden = 512, kLocalExperts = 4, kSteps = 2 };

#define OK(call) check((call), #call)
static void check(ncclResult_t result, const char* call) {
  if (result == ncclSuccess) return;
  fprintf(stderr, "%s: %d\n", call, (int)result);
  exit(1);
}

// ---- Tensors ------------------------------------------------------------------------------------------------------

static size_t bytes_of(const ncclEpTensor_t* tensor) {
  size_t bytes = tensor->datatype == ncclInt64 ? sizeof(int64_t) : sizeof(float);
  for (unsigned i = 0; i < tensor->ndim; ++i) bytes *= tensor->sizes[i];
  return bytes;
}

static ncclEpTensor_t* make_tensor(Gpu* gpu, ncclDataType_t datatype, unsigned ndim, const size_t* sizes) {
  ncclEpTensor_t* tensor;
  OK(ncclEpTensorAlloc(&tensor, ndim, datatype, sizes, NULL));
  tensor->data = gpu_malloc(gpu, bytes_of(tensor));
  return tensor;
}
#define TENSOR(gpu, datatype, ndim, ...) make_tensor(gpu, datatype, ndim, (const size_t[]){__VA_ARGS__})

static void* read_tensor(Gpu* gpu, const ncclEpTensor_t* tensor) {
  void* values = malloc(bytes_of(tensor));
  check(values ? ncclSuccess : ncclSystemError, "malloc");
  gpu_copy(gpu, values, tensor->data, bytes_of(tensor));
  return values;
}

static void write_tensor(Gpu* gpu, ncclEpTensor_t* tensor, const void* values) {
  gpu_copy(gpu, tensor->data, values, bytes_of(tensor));
}

// ---- A rank's own tokens ------------------------------------------------------------------------------------------

typedef struct {
  Gpu* gpu;
  int num_experts;
  ncclEpTensor_t *tokens, *topk_idx, *topk_weights, *combined;
} Layer;

static Layer make_layer(Gpu* gpu) {
  const Layer layer = {gpu,
                       gpu->num_ranks * kLocalExperts,
                       TENSOR(gpu, ncclFloat32, 2, kTokens, kHidden),
                       TENSOR(gpu, ncclInt64, 2, kTokens, kTopk),
                       TENSOR(gpu, ncclFloat32, 2, kTokens, kTopk),
                       TENSOR(gpu, ncclFloat32, 2, kTokens, kHidden)};
  return layer;
}

static void destroy_layer(Layer* layer) {
  OK(ncclEpTensorDestroy(layer->tokens));
  OK(ncclEpTensorDestroy(layer->topk_idx));
  OK(ncclEpTensorDestroy(layer->topk_weights));
  OK(ncclEpTensorDestroy(layer->combined));
}

static int expert_of(const Layer* layer, int step, int token, int k) {
  return (layer->gpu->rank + step + 3 * token + 5 * k) % layer->num_experts;
}
static float weight_of(int k) { return k == 0 ? 0.25f : 0.75f; }
static float element_of(const Layer* layer, int token, int i) { return (float)(64 * layer->gpu->rank + token + i % 7); }

static void fill_inputs(Layer* layer, int step) {
  static _Thread_local float tokens[kTokens][kHidden], weights[kTokens][kTopk];
  static _Thread_local int64_t experts[kTokens][kTopk];
  for (int t = 0; t < kTokens; ++t) {
    for (int i = 0; i < kHidden; ++i) tokens[t][i] = element_of(layer, t, i);
    for (int k = 0; k < kTopk; ++k) {
      experts[t][k] = expert_of(layer, step, t, k);
      weights[t][k] = weight_of(k);
    }
  }
  write_tensor(layer->gpu, layer->tokens, tokens);
  write_tensor(layer->gpu, layer->topk_idx, experts);
  write_tensor(layer->gpu, layer->topk_weights, weights);
}

// All numbers are small multiples of a quarter, so sums are exact in any order.
static void check_outputs(Layer* layer, int step) {
  float* combined = read_tensor(layer->gpu, layer->combined);
  for (int t = 0; t < kTokens; ++t) {
    float factor = 0;
    for (int k = 0; k < kTopk; ++k) factor += weight_of(k) * (float)(expert_of(layer, step, t, k) + 1);
    for (int i = 0; i < kHidden; ++i) {
      const float found = combined[t * kHidden + i], expected = factor * element_of(layer, t, i);
      if (found == expected) continue;
      fprintf(stderr, "rank %d, step %d: combined[%d, %d] is %g, expected %g\n", layer->gpu->rank, step, t, i, found,
              expected);
      exit(1);
    }
  }
  free(combined);
}

// ---- Low Latency, expert-major ------------------------------------------------------------------------------------

// Multiplies the rows that each expert has received.
static void run_experts(Layer* layer, ncclEpTensor_t* rows, ncclEpTensor_t* counters) {
  const size_t room = rows->sizes[1];
  float* values = read_tensor(layer->gpu, rows);
  int* counts = read_tensor(layer->gpu, counters);
  for (int e = 0; e < kLocalExperts; ++e) {
    float* zone = values + (size_t)e * room * kHidden;
    const float factor = (float)(layer->gpu->rank * kLocalExperts + e + 1);
    for (size_t i = 0; i < (size_t)counts[e] * kHidden; ++i) zone[i] *= factor;
  }
  write_tensor(layer->gpu, rows, values);
  free(counts);
  free(values);
}

static void low_latency_step(Layer* layer, ncclEpHandle_t handle, ncclEpTensor_t* rows, ncclEpTensor_t* counters) {
  ncclEpDispatchInputs_t dispatch_in = NCCL_EP_DISPATCH_INPUTS_INIT;
  ncclEpDispatchOutputs_t dispatch_out = NCCL_EP_DISPATCH_OUTPUTS_INIT;
  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  dispatch_in.tokens = layer->tokens;
  dispatch_out.tokens = rows;
  info.expert_counters = counters;
  OK(ncclEpDispatch(handle, &dispatch_in, &dispatch_out, &info, NULL, layer->gpu->stream));
  run_experts(layer, rows, counters);

  ncclEpCombineInputs_t combine_in = NCCL_EP_COMBINE_INPUTS_INIT;
  ncclEpCombineOutputs_t combine_out = NCCL_EP_COMBINE_OUTPUTS_INIT;
  ncclEpCombineConfig_t config = NCCL_EP_COMBINE_CONFIG_INIT;
  combine_in.tokens = rows;
  combine_out.tokens = layer->combined;
  combine_out.topk_weights = layer->topk_weights;
  config.send_only = 1;
  OK(ncclEpCombine(handle, &combine_in, &combine_out, &config, layer->gpu->stream));
  OK(ncclEpComplete(handle, NULL, layer->gpu->stream));
}

static void low_latency(Gpu* gpu) {
  Layer layer = make_layer(gpu);
  ncclEpTensor_t* rows = TENSOR(gpu, ncclFloat32, 3, kLocalExperts, (size_t)gpu->num_ranks * kTokens, kHidden);
  ncclEpTensor_t* counters = TENSOR(gpu, ncclInt32, 1, kLocalExperts);
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.algorithm = NCCL_EP_ALGO_LOW_LATENCY;
  config.num_experts = (unsigned)layer.num_experts;
  config.max_dispatch_tokens_per_rank = kTokens;
  config.max_token_bytes = kHidden * sizeof(float);
  ncclEpGroup_t group;
  OK(ncclEpCreateGroup(&group, gpu->comm, &config));

  ncclEpHandle_t handle;
  fill_inputs(&layer, 0);
  OK(ncclEpCreateHandle(&handle, group, NCCL_EP_LAYOUT_EXPERT_MAJOR, layer.topk_idx, NULL, NULL, gpu->stream));
  for (int step = 0; step < kSteps; ++step) {
    fill_inputs(&layer, step);
    OK(ncclEpUpdateHandle(handle, layer.topk_idx, NULL, gpu->stream));
    low_latency_step(&layer, handle, rows, counters);
    check_outputs(&layer, step);
  }
  OK(ncclEpHandleDestroy(handle));
  OK(ncclEpGroupDestroy(group));
  OK(ncclEpTensorDestroy(counters));
  OK(ncclEpTensorDestroy(rows));
  destroy_layer(&layer);
}

// ---- High Throughput, flat ----------------------------------------------------------------------------------------

typedef struct {
  ncclEpTensor_t *tokens, *topk_idx, *topk_weights, *total;
} Received;

// Each received row becomes the weighted sum of what this rank's experts make of it.
static void run_experts_flat(Layer* layer, Received* received) {
  float* rows = read_tensor(layer->gpu, received->tokens);
  int64_t* experts = read_tensor(layer->gpu, received->topk_idx);
  float* weights = read_tensor(layer->gpu, received->topk_weights);
  int* total = read_tensor(layer->gpu, received->total);
  for (int row = 0; row < *total; ++row) {
    float factor = 0;
    for (int place = row * kTopk; place < (row + 1) * kTopk; ++place) {
      const int first = layer->gpu->rank * kLocalExperts;
      if (experts[place] >= 0) factor += weights[place] * (float)(first + experts[place] + 1);
    }
    for (int i = 0; i < kHidden; ++i) rows[row * kHidden + i] *= factor;
  }
  write_tensor(layer->gpu, received->tokens, rows);
  free(total);
  free(weights);
  free(experts);
  free(rows);
}

static void high_throughput_step(Layer* layer, ncclEpHandle_t handle, Received* received) {
  ncclEpDispatchInputs_t dispatch_in = NCCL_EP_DISPATCH_INPUTS_INIT;
  ncclEpDispatchOutputs_t dispatch_out = NCCL_EP_DISPATCH_OUTPUTS_INIT;
  dispatch_in.tokens = layer->tokens;
  dispatch_in.topk_weights = layer->topk_weights;
  dispatch_out.tokens = received->tokens;
  dispatch_out.topk_weights = received->topk_weights;
  dispatch_out.topk_idx = received->topk_idx;
  OK(ncclEpDispatch(handle, &dispatch_in, &dispatch_out, NULL, NULL, layer->gpu->stream));
  run_experts_flat(layer, received);

  ncclEpCombineInputs_t combine_in = NCCL_EP_COMBINE_INPUTS_INIT;
  ncclEpCombineOutputs_t combine_out = NCCL_EP_COMBINE_OUTPUTS_INIT;
  combine_in.tokens = received->tokens;
  combine_out.tokens = layer->combined;
  OK(ncclEpCombine(handle, &combine_in, &combine_out, NULL, layer->gpu->stream));
}

static void high_throughput(Gpu* gpu) {
  const size_t budget = (size_t)gpu->num_ranks * kTokens;
  Layer layer = make_layer(gpu);
  Received received = {TENSOR(gpu, ncclFloat32, 2, budget, kHidden), TENSOR(gpu, ncclInt64, 2, budget, kTopk),
                       TENSOR(gpu, ncclFloat32, 2, budget, kTopk), TENSOR(gpu, ncclInt32, 1, 1)};
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.algorithm = NCCL_EP_ALGO_HIGH_THROUGHPUT;
  config.num_experts = (unsigned)layer.num_experts;
  config.max_dispatch_tokens_per_rank = kTokens;
  config.max_recv_tokens_per_rank = (unsigned)budget;
  config.max_token_bytes = kHidden * sizeof(float);
  config.num_topk = kTopk;
  ncclEpGroup_t group;
  OK(ncclEpCreateGroup(&group, gpu->comm, &config));

  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  info.recv_total_counter = received.total;
  ncclEpHandle_t handle;
  fill_inputs(&layer, 0);
  OK(ncclEpCreateHandle(&handle, group, NCCL_EP_LAYOUT_FLAT, layer.topk_idx, &info, NULL, gpu->stream));
  for (int step = 0; step < kSteps; ++step) {
    fill_inputs(&layer, step);
    OK(ncclEpUpdateHandle(handle, layer.topk_idx, &info, gpu->stream));
    high_throughput_step(&layer, handle, &received);
    check_outputs(&layer, step);
  }
  OK(ncclEpHandleDestroy(handle));
  OK(ncclEpGroupDestroy(group));
  OK(ncclEpTensorDestroy(received.tokens));
  OK(ncclEpTensorDestroy(received.topk_idx));
  OK(ncclEpTensorDestroy(received.topk_weights));
  OK(ncclEpTensorDestroy(received.total));
  destroy_layer(&layer);
}

static void run_layers(Gpu* gpu) {
  int version;
  OK(ncclEpGetVersion(&version));
  low_latency(gpu);
  high_throughput(gpu);
  printf("rank %d of %d: both layers are right, with version %d\n", gpu->rank, gpu->num_ranks, version);
}

int main(int argc, char** argv) {
  run_on_gpus(argc > 1 ? atoi(argv[1]) : 2, run_layers);
  return 0;
}
