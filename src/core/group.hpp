// SPDX-License-Identifier: Apache-2.0
// A group: one communicator, its symmetric memory and kernels, shared by any number of handles.
#pragma once

#include <memory>
#include <string>

#include "core/fault.hpp"
#include "core/memory.hpp"
#include "core/requests.hpp"
#include "jit/kernels.hpp"
#include "plan/ll_plan.hpp"
#include "runtime/runtime.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::core {

class Group {
 public:
  // Collective. Checks the configuration, here and against the other ranks', compiles what will be needed, and
  // allocates. `config` is a negotiated current-version struct.
  static std::unique_ptr<Group> create(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config);
  // Collective.
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  const ncclEpGroupConfig_t& config() const { return config_; }
  runtime::Communicator& comm() { return *comm_; }
  runtime::Device& device() { return comm_->device(); }
  Allocator& allocator() { return *allocator_; }
  const plan::LlShape& ll_shape() const { return ll_shape_; }
  const LlGroupState& ll_state() const { return ll_state_; }
  const jit::LlKernels& ll_kernels() const { return kernels_; }
  const plan::Limits& ll_limits() const { return ll_limits_; }
  const plan::LlTuning& ll_tuning() const { return ll_tuning_; }

  // Bytes of device memory that a handle of this layout and top-k needs.
  size_t handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const;
  LlHandleLayout handle_layout(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const;

  // The handle whose send_only operation waits for Complete, or nullptr: a group has at most one.
  const void* pending = nullptr;

  // Throws the fault that a kernel of this group recorded, if any: the sticky error of every later call.
  void throw_if_faulted() const;
  // The recorded fault's code, ncclSuccess if none. Reads host memory only.
  ncclResult_t async_error() const noexcept;

 private:
  Group() = default;
  void prepare();
  void admit_kernels();
  void connect();

  std::unique_ptr<runtime::Communicator> comm_;
  ncclEpGroupConfig_t config_{};
  std::unique_ptr<Allocator> allocator_;
  plan::LlShape ll_shape_{};
  plan::Limits ll_limits_{};
  plan::LlTuning ll_tuning_{};
  LlGroupState ll_state_{};
  jit::LlKernels kernels_{};
  SymmetricMemory window_;
  DeviceMemory state_;
  HostMemory fault_;
};

}  // namespace nccl_ep::core
