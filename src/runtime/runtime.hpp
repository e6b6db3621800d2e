// SPDX-License-Identifier: Apache-2.0
// The seam: everything the library does at run time goes through these two interfaces.
//
// Two implementations: the CUDA driver with NCCL (runtime/cuda) and the simulated cluster (sim). Code above the seam
// never names a CUDA or NCCL function and never asks which implementation it has. Failures are thrown as Error.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "runtime/error.hpp"
#include "runtime/nccl_types.hpp"
#include "shared/gin_comm.hpp"
#include "shared/types.hpp"

namespace nccl_ep::runtime {

struct DeviceLimits {
  uint32_t num_sms = 0;
  uint32_t max_threads_per_block = 0;
  size_t max_shared_bytes_per_block = 0;  // dynamic, after opting in
  std::string arch;                       // what kernels are compiled for: "sm_90a"; "sim" on the simulator
};

struct LaunchShape {
  uint32_t num_blocks = 0;
  uint32_t num_threads = 0;
  size_t shared_bytes = 0;
};

// A kernel loaded on one device. Owned by its Device and valid as long as it.
class Kernel;

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceLimits& limits() const = 0;

  // Device memory, 256-byte aligned at least.
  virtual void* allocate(size_t bytes) = 0;
  virtual void release(void* memory) noexcept = 0;
  // Pinned host memory; the same pointer is valid on the device.
  virtual void* allocate_host(size_t bytes) = 0;
  virtual void release_host(void* memory) noexcept = 0;

  virtual void fill(void* dst, uint8_t value, size_t bytes, cudaStream_t stream) = 0;
  virtual void copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) = 0;

  // A stream of the library's own, for work outside the caller's streams. Destroyed with the device.
  virtual cudaStream_t own_stream() = 0;
  virtual void synchronize(cudaStream_t stream) = 0;
  virtual bool is_capturing(cudaStream_t stream) = 0;

  // A kernel compiled into the implementation, or nullptr where kernels come from the JIT.
  virtual Kernel* builtin_kernel(std::string_view name) = 0;
  virtual Kernel* load_kernel(std::string_view binary, const std::string& name) = 0;
  // Blocks of this shape that are resident on one SM at a time; also raises the kernel's shared-memory limit.
  virtual uint32_t blocks_per_sm(Kernel* kernel, const LaunchShape& shape) = 0;
  // Enqueues kernel(args). `args` is plain data of at most 4 KiB, copied before launch returns.
  virtual void launch(Kernel* kernel, const LaunchShape& shape, const void* args, size_t args_bytes,
                      cudaStream_t stream) = 0;
};

// What kernels will ask of the network.
struct NetworkNeeds {
  enum class Reach : uint32_t {
    world,  // every rank
    rail,   // the ranks with the same place in other LSA teams
  };

  uint32_t num_contexts = 0;  // a hint: GinComm says how many there are
  uint32_t num_signals = 0;   // of each context
  uint32_t num_counters = 0;  // of each context
  Reach reach = Reach::world;
};

// A connection of every rank to every other one that it needs through the network, with signals and counters of its own,
// all zero at first. Destroyed on all ranks, before its communicator.
class Network {
 public:
  virtual ~Network() = default;
  // Collective, once.
  virtual void connect() = 0;
  // Of a network that is connected.
  virtual const GinComm& comm() const = 0;
};

class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual Device& device() = 0;
  virtual uint32_t rank() const = 0;
  virtual uint32_t num_ranks() const = 0;
  // The LSA team: ranks that reach one another's memory with loads and stores. Consecutive in the world.
  virtual uint32_t lsa_rank() const = 0;
  virtual uint32_t lsa_size() const = 0;

  // Memory that can back a window.
  virtual void* allocate_symmetric(size_t bytes) = 0;
  virtual void release_symmetric(void* memory) noexcept = 0;
  // Collective. The window is never null: no symmetric memory is an Error that says why.
  virtual ncclWindow_t register_window(void* memory, size_t bytes) = 0;
  virtual void deregister_window(ncclWindow_t window) noexcept = 0;
  // How this rank's LSA team addresses a window, the caller's own windows included.
  virtual PeerWindow peers(ncclWindow_t window, size_t offset) = 0;

  // A network that is not connected yet, with the memory that this rank needs for it. No network, where there is none or a
  // rank cannot use it, is an Error that names the reason and the remedy.
  virtual std::unique_ptr<Network> make_network(const NetworkNeeds& needs) = 0;

  // Collective on the host: out[r * bytes ...] = rank r's in. For set-up only. Needs no new memory after a call with as
  // many bytes.
  virtual void all_gather(const void* in, void* out, size_t bytes) = 0;
};

// The communicator behind a caller's ncclComm_t: simulated if it carries the simulator's mark, else NCCL's.
std::unique_ptr<Communicator> open_communicator(ncclComm_t comm);

// A simulated ncclComm_t points at one of these. NCCL's own communicator starts with a magic word of its own, so
// eight bytes may be read from either.
struct ForeignCommunicator {
  static constexpr uint64_t kMark = 0x31306d6973706565;  // "eepsim01": layout of this struct and of the seam
  uint64_t mark = kMark;
  std::unique_ptr<Communicator> (*open)(ForeignCommunicator* self) = nullptr;
};

}  // namespace nccl_ep::runtime
