// SPDX-License-Identifier: Apache-2.0
// A handle: one routing (top-k table) of a group, with what dispatch and combine need to know of it.
#pragma once

#include "core/group.hpp"
#include "core/requests.hpp"

namespace nccl_ep::core {

class Handle {
 public:
  virtual ~Handle() = default;
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;

  virtual void update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t& info, cudaStream_t stream) = 0;
  virtual void dispatch(const DispatchRequest& request, cudaStream_t stream) = 0;
  virtual void combine(const CombineRequest& request, cudaStream_t stream) = 0;
  // Receives what a send_only call left pending; nothing pending is fine.
  virtual void complete(cudaStream_t stream) = 0;

 protected:
  // `handle_mem` is the caller's memory, or nullptr to allocate with the group's allocator.
  Handle(Group& group, size_t bytes, const ncclEpTensor_t* handle_mem);

  unsigned char* memory() const { return memory_.as<unsigned char>(); }
  void note_routing() { has_routing_ = true; }
  void require_routing() const;

  // `call` tells the handle which ranks have rows, and where: ncclEpUpdateHandle in High Throughput, ncclEpDispatch in Low
  // Latency. It has been called on this stream, of a group with masks.
  void note_ranks(cudaStream_t stream);
  // Throws if masks have been cleaned since then, so that ranks may be back that it does not know. What is in a graph runs
  // nobody can say when.
  void require_ranks(const char* call, cudaStream_t stream) const {
    if (num_cleanings_ != owner_.num_cleanings()) refuse_if_stale(call, stream);
  }

 private:
  void refuse_if_stale(const char* call, cudaStream_t stream) const;

  Group& owner_;
  DeviceMemory memory_;
  bool has_routing_ = false;
  uint32_t num_cleanings_ = 0;  // of masks, before note_ranks
  bool is_in_graph_ = false;
};

}  // namespace nccl_ep::core
