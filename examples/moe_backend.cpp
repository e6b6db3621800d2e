// SPDX-License-Identifier: Apache-2.0
// What a framework's backend does for an MoE layer in High Throughput: memory from the framework's allocator, forward and
// backward on one handle, experts that go by the counters, calls that are captured once and replayed, a watchdog, and an end
// in the right order. What the framework has itself is in sim_gpu.hpp, on simulated GPUs. With CUDA, experts are kernels and
// graphs are cudaGraphExec_t; all else in this file stays.
//
//   export PKG_CONFIG_PATH=$(python -m nccl_ep.paths libraries)/pkgconfig
//   c++ -std=c++17 moe_backend.cpp -o moe_backend $(pkg-config --cflags --libs nccl_ep_sim) -lpthread && ./moe_backend
//
// In `./moe_backend stuck` a rank never comes to its second step, and the others say for whom they have waited.
#include <cstring>

#include "sim_gpu.hpp"

namespace {

constexpr size_t kRanks = 4, kLocal = 2, kExperts = kRanks * kLocal, kTokens = 16, kTopk = 2, kHidden = 64;
constexpr size_t kTile = 8;  // rows that an expert takes at a time: its zone is padded to a multiple, with zeros
constexpr size_t kBudget = kRanks * kTokens * kTopk + kLocal * kTile;

struct MoeLayer {
  explicit MoeLayer(Gpu& gpu);
  ~MoeLayer();
  MoeLayer(const MoeLayer&) = delete;
  MoeLayer& operator=(const MoeLayer&) = delete;

  void forward();   // x, topk_idx, topk_weights to y
  void backward();  // grad_y to grad_x, grad_weights, with what forward() has left

  void update();
  void dispatch(ncclEpPassDir_t pass);
  void combine(ncclEpPassDir_t pass);
  void wait();
  template <class Body>
  void for_each_received(Body body);

  Gpu& gpu;
  ncclEpGroup_t group = nullptr;
  ncclEpHandle_t handle = nullptr;
  void* handle_memory = nullptr;
  ncclEpSimGraph_t forward_in = nullptr, forward_out = nullptr, backward_in = nullptr, backward_out = nullptr;

  // Of this rank's tokens. Graphs keep the places of all tensors.
  Tensor<float> x{gpu, ncclFloat32, {kTokens, kHidden}}, y{gpu, ncclFloat32, {kTokens, kHidden}};
  Tensor<float> grad_y{gpu, ncclFloat32, {kTokens, kHidden}}, grad_x{gpu, ncclFloat32, {kTokens, kHidden}};
  Tensor<int64_t> topk_idx{gpu, ncclInt64, {kTokens, kTopk}};
  Tensor<float> weights{gpu, ncclFloat32, {kTokens, kTopk}}, grad_weights{gpu, ncclFloat32, {kTokens, kTopk}};
  // Of the rows that this rank's experts have received, and of what they make of them.
  Tensor<float> rows{gpu, ncclFloat32, {kBudget, kHidden}}, grad_rows{gpu, ncclFloat32, {kBudget, kHidden}};
  Tensor<float> results{gpu, ncclFloat32, {kBudget, kHidden}};
  Tensor<float> row_weights{gpu, ncclFloat32, {kBudget}}, grad_row_weights{gpu, ncclFloat32, {kBudget}};
  Tensor<int32_t> counters{gpu, ncclInt32, {kLocal}}, offsets{gpu, ncclInt32, {kLocal}};
};

MoeLayer::MoeLayer(Gpu& gpu) : gpu(gpu) {
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  config.algorithm = NCCL_EP_ALGO_HIGH_THROUGHPUT;
  config.num_experts = kExperts;
  config.max_dispatch_tokens_per_rank = kTokens;
  config.max_recv_tokens_per_rank = kBudget;  // without it the host reads how much arrives, and nothing can be captured
  config.max_token_bytes = kHidden * sizeof(float);
  config.num_topk = kTopk;
  config.timeout_ns = 2000000000;
  config.alloc.context = &gpu;
  config.alloc.alloc_fn = [](void** memory, size_t bytes, void* context) {
    *memory = static_cast<Gpu*>(context)->allocate(bytes);
    return cudaSuccess;
  };
  config.alloc.free_fn = [](void* memory, void* context) {
    static_cast<Gpu*>(context)->release(memory);
    return cudaSuccess;
  };
  EP(ncclEpCreateGroup(&group, gpu.comm, &config));

  ncclEpHandleConfig_t handle_config = NCCL_EP_HANDLE_CONFIG_INIT;
  handle_config.dispatch_output_per_expert_alignment = kTile;
  size_t bytes = 0;
  EP(ncclEpHandleMemSize(group, NCCL_EP_LAYOUT_EXPERT_MAJOR, &handle_config, &bytes, kTopk));
  ncclEpTensor_t memory = NCCL_EP_TENSOR_INIT;
  memory.ndim = 1;
  memory.datatype = ncclUint8;
  memory.sizes = &bytes;
  memory.data = handle_memory = gpu.allocate(bytes);
  EP(ncclEpInitHandle(&handle, group, NCCL_EP_LAYOUT_EXPERT_MAJOR, &handle_config, kTopk, &memory));

  // Experts here are loops of the host, which no graph can have: so there are four. Those with kernels that read the counters
  // on the device are captured with the rest, and a whole step is one graph.
  forward_in = gpu.capture([this] {
    update();
    dispatch(NCCL_EP_FWD_PASS);
  });
  forward_out = gpu.capture([this] { combine(NCCL_EP_FWD_PASS); });
  backward_in = gpu.capture([this] { dispatch(NCCL_EP_BWD_PASS); });
  backward_out = gpu.capture([this] { combine(NCCL_EP_BWD_PASS); });
}

// Work has to be over. Then go the graphs, which use the handle, the handle, its memory, and the group at last; the
// communicator and the allocator outlive them all. Destroying a group is collective, everything else is not.
MoeLayer::~MoeLayer() {
  wait();
  for (const ncclEpSimGraph_t graph : {forward_in, forward_out, backward_in, backward_out}) gpu.destroy(graph);
  EP(ncclEpHandleDestroy(handle));
  gpu.release(handle_memory);
  EP(ncclEpGroupDestroy(group));
}

// A new routing, and how many rows it brings to each local expert, and where they begin.
void MoeLayer::update() {
  ncclEpLayoutInfo_t info = NCCL_EP_LAYOUT_INFO_INIT;
  info.expert_counters = counters.ep();
  info.expert_offsets = offsets.ep();
  EP(ncclEpUpdateHandle(handle, topk_idx.ep(), &info, gpu.stream));
}

void MoeLayer::dispatch(ncclEpPassDir_t pass) {
  ncclEpDispatchInputs_t in = NCCL_EP_DISPATCH_INPUTS_INIT;
  ncclEpDispatchOutputs_t out = NCCL_EP_DISPATCH_OUTPUTS_INIT;
  ncclEpDispatchConfig_t config = NCCL_EP_DISPATCH_CONFIG_INIT;
  const bool is_forward = pass == NCCL_EP_FWD_PASS;
  in.tokens = is_forward ? x.ep() : grad_y.ep();
  in.topk_weights = is_forward ? weights.ep() : nullptr;
  out.tokens = is_forward ? rows.ep() : grad_rows.ep();
  out.topk_weights = is_forward ? row_weights.ep() : nullptr;
  config.pass_direction = pass;
  EP(ncclEpDispatch(handle, &in, &out, nullptr, &config, gpu.stream));
}

void MoeLayer::combine(ncclEpPassDir_t pass) {
  ncclEpCombineInputs_t in = NCCL_EP_COMBINE_INPUTS_INIT;
  ncclEpCombineOutputs_t out = NCCL_EP_COMBINE_OUTPUTS_INIT;
  ncclEpCombineConfig_t config = NCCL_EP_COMBINE_CONFIG_INIT;
  const bool is_forward = pass == NCCL_EP_FWD_PASS;
  in.tokens = results.ep();
  in.topk_weights = is_forward ? nullptr : grad_row_weights.ep();
  out.tokens = is_forward ? y.ep() : grad_x.ep();
  out.topk_weights = is_forward ? nullptr : grad_weights.ep();
  config.pass_direction = pass;
  EP(ncclEpCombine(handle, &in, &out, &config, gpu.stream));
}

// The watchdog. Calls on a group must not overlap, so it is in the thread that makes them: who waits asks what kernels have
// reported.
void MoeLayer::wait() {
  for (bool is_idle = false; !is_idle;) {
    is_idle = gpu.is_idle();
    int error = 0;
    EP(ncclEpGetAsyncError(group, &error));
    if (error != 0) fail("watchdog", ncclEpGetLastError(group));
  }
}

// Calls body(row, factor) for the rows of each local expert. Expert e multiplies by e + 1.
template <class Body>
void MoeLayer::for_each_received(Body body) {
  wait();
  for (size_t expert = 0; expert < kLocal; ++expert) {
    const auto first = static_cast<size_t>(offsets[expert]), count = static_cast<size_t>(counters[expert]);
    const auto factor = static_cast<float>(static_cast<size_t>(gpu.rank) * kLocal + expert + 1);
    for (size_t row = first; row < first + count; ++row) body(row, factor);
  }
}

void MoeLayer::forward() {
  gpu.launch(forward_in);
  for_each_received([this](size_t row, float factor) {
    for (size_t i = row * kHidden; i < (row + 1) * kHidden; ++i) results[i] = row_weights[row] * factor * rows[i];
  });
  gpu.launch(forward_out);
}

void MoeLayer::backward() {
  gpu.launch(backward_in);
  for_each_received([this](size_t row, float factor) {
    grad_row_weights[row] = 0;
    for (size_t i = row * kHidden; i < (row + 1) * kHidden; ++i) {
      grad_row_weights[row] += factor * rows[i] * grad_rows[i];
      results[i] = row_weights[row] * factor * grad_rows[i];
    }
  });
  gpu.launch(backward_out);
}

// ---- Steps that can be checked: all numbers are small, and sums of them exact in any order

size_t expert_of(const Gpu& gpu, size_t step, size_t token, size_t k) {
  return (static_cast<size_t>(gpu.rank) + step + 3 * token + 5 * k) % kExperts;
}

void fill(MoeLayer& layer, size_t step) {
  for (size_t t = 0; t < kTokens; ++t) {
    for (size_t i = 0; i < kHidden; ++i) {
      layer.x[t * kHidden + i] = static_cast<float>(static_cast<size_t>(layer.gpu.rank) + t + i % 7);
      layer.grad_y[t * kHidden + i] = static_cast<float>((t + step + i) % 5);
    }
    for (size_t k = 0; k < kTopk; ++k) {
      layer.topk_idx[t * kTopk + k] = static_cast<int64_t>(expert_of(layer.gpu, step, t, k));
      layer.weights[t * kTopk + k] = k == 0 ? 0.25f : 0.75f;
    }
  }
}

void check(MoeLayer& layer, size_t step) {
  for (size_t t = 0; t < kTokens; ++t) {
    float factor = 0, product = 0;
    for (size_t i = 0; i < kHidden; ++i) product += layer.x[t * kHidden + i] * layer.grad_y[t * kHidden + i];
    for (size_t k = 0; k < kTopk; ++k) {
      const auto of_expert = static_cast<float>(expert_of(layer.gpu, step, t, k) + 1);
      factor += layer.weights[t * kTopk + k] * of_expert;
      if (layer.grad_weights[t * kTopk + k] != of_expert * product) fail("check", "a weight's gradient is wrong");
    }
    for (size_t i = t * kHidden; i < (t + 1) * kHidden; ++i) {
      if (layer.y[i] != factor * layer.x[i]) fail("check", "y is wrong");
      if (layer.grad_x[i] != factor * layer.grad_y[i]) fail("check", "grad_x is wrong");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bool has_stuck_rank = argc > 1 && std::strcmp(argv[1], "stuck") == 0;
  run_on_gpus(kRanks, [&](Gpu& gpu) {
    MoeLayer layer(gpu);
    for (size_t step = 0; step < 3; ++step) {
      if (has_stuck_rank && gpu.rank == 1 && step == 1) gpu.wait_for_all_ranks();
      fill(layer, step);
      layer.forward();
      layer.backward();
      layer.wait();
      check(layer, step);
    }
    std::printf("rank %d: three steps forward and backward are right\n", gpu.rank);
  });
  return 0;
}
