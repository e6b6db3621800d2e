// SPDX-License-Identifier: Apache-2.0
// A handle: one routing (top-k table) of a group, with what dispatch remembers for combine.
#pragma once

#include <memory>
#include <variant>

#include "core/group.hpp"

namespace nccl_ep::core {

// A kernel with its arguments. Launching it does the operation or either half of it, by the arguments' phases.
template <class Args>
struct LlOperation {
  runtime::Kernel* kernel;
  runtime::LaunchShape shape;
  Args args;
};

class Handle {
 public:
  // Not collective. `handle_mem` is the caller's memory, or nullptr to allocate with the group's allocator.
  static std::unique_ptr<Handle> create(Group& group, ncclEpLayout_t layout, const ncclEpHandleConfig_t& config,
                                        int num_topk, const ncclEpTensor_t* handle_mem);
  ~Handle();
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  Group& group() { return group_; }

  void update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t* layout_info, cudaStream_t stream);
  void dispatch(const DispatchRequest& request, cudaStream_t stream);
  void combine(const CombineRequest& request, cudaStream_t stream);
  // Receives what a send_only call left pending; nothing pending is fine.
  void complete(cudaStream_t stream);

 private:
  explicit Handle(Group& group) : group_(group) {}

  void require_idle() const;
  void require_routing() const;

  // ll_dispatch.cpp, ll_combine.cpp: all but the phases.
  LlOperation<LlDispatchArgs> ll_dispatch(const DispatchRequest& request);
  LlOperation<LlCombineArgs> ll_combine(const CombineRequest& request);
  template <class Args>
  void launch(LlOperation<Args>& operation, uint32_t phases, cudaStream_t stream);
  template <class Args>
  void start(LlOperation<Args>&& operation, bool send_only, cudaStream_t stream);

  Group& group_;
  ncclEpLayout_t layout_ = NCCL_EP_LAYOUT_UNSET;
  DeviceMemory memory_;
  LlRouting routing_{};
  bool has_routing_ = false;
  bool has_dispatched_ = false;

  // The operation whose second half Complete owes, while the group's `pending` is this handle.
  std::variant<LlOperation<LlDispatchArgs>, LlOperation<LlCombineArgs>> pending_;
};

}  // namespace nccl_ep::core
