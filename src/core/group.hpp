// SPDX-License-Identifier: Apache-2.0
// A group: one communicator, its symmetric memory and kernels, shared by any number of handles. What the algorithms have
// in common is here; what differs is in ll_group and ht_group.
#pragma once

#include <memory>
#include <string>

#include "core/fault.hpp"
#include "core/memory.hpp"
#include "core/rank_mask.hpp"
#include "core/row_paths.hpp"
#include "jit/kernels.hpp"
#include "plan/limits.hpp"
#include "plan/shape.hpp"
#include "runtime/runtime.hpp"
#include "shared/group_state.hpp"

namespace nccl_ep::core {

class Handle;

// What kernels have reported, and its message.
struct AsyncError {
  ncclResult_t code;
  std::string message;
};

class Group {
 public:
  // Collective. Checks the configuration, here and against the other ranks', compiles what will be needed, and
  // allocates. `config` is a negotiated current-version struct.
  static std::unique_ptr<Group> create(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config);
  // For create() alone.
  Group(std::unique_ptr<runtime::Communicator> comm, const ncclEpGroupConfig_t& config)
      : comm_(std::move(comm)), config_(config) {}
  // Collective.
  virtual ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // Not collective. `handle_mem` is the caller's memory, or nullptr to allocate with the group's allocator.
  virtual std::unique_ptr<Handle> create_handle(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk,
                                                const ncclEpTensor_t* handle_mem) = 0;
  // Bytes of device memory that a handle of this layout and top-k needs.
  virtual size_t handle_bytes(ncclEpLayout_t layout, const ncclEpHandleConfig_t& config, int num_topk) const = 0;

  // K of a handle to be; `field` and `subject` are what a message calls it.
  void check_num_topk(int num_topk, const char* field = "num_topk", const char* subject = "") const;

  // Which way rows would take in a call like this one. Throws what the call would.
  virtual RowPaths row_paths(ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) const = 0;

  const ncclEpGroupConfig_t& config() const { return config_; }
  runtime::Communicator& comm() { return *comm_; }
  runtime::Device& device() { return comm_->device(); }
  Allocator& allocator() { return *allocator_; }

  // Throws the fault that a kernel of this group recorded, if any: the sticky error of every later call.
  void throw_if_faulted() const;
  // That fault, or the loss of a rank. Reads host memory only.
  AsyncError async_error() const;
  // Forgets that a rank was lost.
  void clear_error();

  jit::Kernels& kernels() { return kernels_; }

  // Of a group with enable_mask; else throws.
  RankMask& mask();
  bool has_masks() const { return mask_ != nullptr; }
  // Device memory, of that which is the group's alone.
  size_t mask_bytes() const { return mask_ ? RankMask::bytes(comm_->num_ranks()) + told_bytes_ : 0; }
  // How often masks have been cleaned. Where rows are that were sent before is not known any more.
  uint32_t num_cleanings() const { return num_cleanings_; }
  // In stream order: who takes part from now on, an entry for each rank.
  void update_mask(const int* mask, cudaStream_t stream);
  // Collective: makes all ranks active that call it. Throws if some do not.
  virtual void clean_mask(cudaStream_t stream);

 protected:
  // Checks the algorithm's part of the configuration and returns how large the window must be.
  virtual uint64_t plan() = 0;
  // Gets the algorithm's kernels and memory of its own.
  virtual void load() = 0;
  // Of a group that needs the network: what this rank needs for that. Called by load().
  void prepare_network(const runtime::NetworkNeeds& needs);
  // Collective, once the window is open.
  virtual void connect() = 0;
  // Collective: what the kernels need to use the network. Called by connect().
  const GinComm& connect_network();

  // Of a group that is connected: what the kernels' arguments say of it.
  GroupState group_state() const;
  ncclWindow_t window() const { return window_.window(); }

  static const char* environment_variable(const char* variable);
  plan::Shape shape_of_config() const;
  plan::Limits limits(uint32_t num_sms) const;
  // Gets the kernels that the configuration needs of an algorithm. They may use what shared memory a plan may give them, and a
  // block fits on an SM.
  void load_kernels(jit::Algorithm algorithm);
  // Once the window is planned, of a group that can do without ranks that do not answer: where the window has signs of life,
  // and where ranks meet.
  void add_mask(uint64_t life_at, const MaskMeetings& meetings);
  // Of a group of several LSA teams, too: memory for what a rank has told others.
  template <class Network>
  void remember_told(Network& network) {
    const typename Network::Signals signals{comm_->num_ranks()};
    network.mask_progress = allocate_told(signals.told_bytes(network.comm.num_contexts));
    network.told = reinterpret_cast<uint32_t*>(network.mask_progress + 1);
  }
  // Puts the kernel that makes masked ranks active again on a stream.
  virtual void launch_cleaning(cudaStream_t stream);
  template <class Args>
  void launch_cleaner(const jit::Variant& cleaner, const Args& args, cudaStream_t stream) {
    device().launch(kernels_.at(cleaner), {1, kCleanThreads, 0}, &args, sizeof(args), stream);
  }
  // Whether the ranks form several LSA teams.
  bool needs_network() const { return comm_->lsa_size() != comm_->num_ranks(); }

  // Of a group with exact_combine, in which there are expert-major handles alone.
  void check_exact_layout(ncclEpLayout_t layout) const;

  uint32_t max_topk() const;  // of a handle

 private:
  void prepare();
  void allocate_window(uint64_t bytes);
  std::string size_of_config() const;
  void open_window();
  MaskProgress* allocate_told(uint64_t bytes);
  std::vector<int> checked_mask(const int* mask) const;
  std::vector<jit::Variant> variants_of(jit::Algorithm algorithm) const;
  uint64_t timeout_ns() const;
  std::string describe(const FaultRecord& fault) const;
  FaultRecords& faults() const { return *faults_.as<FaultRecords>(); }

  std::unique_ptr<runtime::Communicator> comm_;
  ncclEpGroupConfig_t config_;
  std::unique_ptr<Allocator> allocator_;
  SymmetricMemory window_;
  std::unique_ptr<runtime::Network> network_;
  jit::Kernels kernels_;
  DeviceMemory progress_;
  HostMemory faults_;
  std::unique_ptr<RankMask> mask_;
  MaskMeetings mask_meetings_{};
  uint32_t num_cleanings_ = 0;
  DeviceMemory told_;
  size_t told_bytes_ = 0;
  bool is_complete_ = false;
};

}  // namespace nccl_ep::core
