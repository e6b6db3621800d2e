// SPDX-License-Identifier: Apache-2.0
// A Low-Latency handle.
#pragma once

#include <variant>

#include "core/handle.hpp"
#include "core/ll_group.hpp"

namespace nccl_ep::core {

// A kernel with its arguments. Launching it does the operation or either half of it, by the arguments' phases.
template <class Args>
struct LlOperation {
  runtime::Kernel* kernel;
  runtime::LaunchShape shape;
  Args args;
};

// Low Latency has the forward pass only.
[[noreturn, gnu::cold]] void refuse_backward_pass();

class LlHandle : public Handle {
 public:
  LlHandle(LlGroup& group, ncclEpLayout_t layout, const LlHandleLayout& memory_layout, uint32_t num_topk,
           const ncclEpTensor_t* handle_mem);
  ~LlHandle() override;

  void update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t& info, cudaStream_t stream) override;
  void dispatch(const DispatchRequest& request, cudaStream_t stream) override;
  void combine(const CombineRequest& request, cudaStream_t stream) override;
  void complete(cudaStream_t stream) override;

 private:
  void require_idle() const;
  void require_bank() const;

  // ll_dispatch.cpp, ll_combine.cpp: all but the phases.
  LlOperation<LlDispatchArgs> prepare(const DispatchRequest& request);
  LlOperation<LlCombineArgs> prepare(const CombineRequest& request);
  template <class Args>
  void launch(LlOperation<Args>& operation, uint32_t phases, cudaStream_t stream);
  template <class Args>
  void start(LlOperation<Args>&& operation, bool send_only, cudaStream_t stream);

  LlGroup& group_;
  Layout layout_;
  LlRouting routing_{};
  bool has_dispatched_ = false;

  // The operation whose second half Complete owes, while the group's `pending` has this handle.
  std::variant<LlOperation<LlDispatchArgs>, LlOperation<LlCombineArgs>> pending_;
};

}  // namespace nccl_ep::core
