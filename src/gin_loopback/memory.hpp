// SPDX-License-Identifier: Apache-2.0
// Registered memory: what a rank registers, and where it finds what its peers have registered with it.
#pragma once

#include <cstdint>
#include <vector>

#include "gin_loopback/driver.hpp"
#include "gin_loopback/socket.hpp"

namespace nccl_ep::loopback {

// What is sent to peers, with a file attached to it if the memory can be mapped by others.
struct MemoryOffer {
  uint64_t bytes = 0;         // that are registered,
  uint64_t offset = 0;        // beginning here
  uint64_t mapped_bytes = 0;  // in an allocation of this size
};

// Whatever the driver does not give a file for stays private: signals that NCCL allocates, host memory.
File export_memory(CUdeviceptr address, MemoryOffer* offer);

// A peer's allocation in the current context's address space.
class Mapping {
 public:
  Mapping() = default;
  Mapping(const File& file, uint64_t bytes);
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  ~Mapping();  // needs the context to be current

  CUdeviceptr address() const { return address_; }

 private:
  CUdeviceptr address_ = 0;
  uint64_t bytes_ = 0;
  bool is_mapped_ = false;
};

class Memory {
 public:
  // `address` is a host address if `is_host`.
  Memory(int rank, int num_ranks, uint64_t address, uint64_t bytes, bool is_host, bool never_reset);

  void set_id(uint64_t id) { id_ = id; }
  void map_peer(int peer, const MemoryOffer& offer, const File& file);

  uint64_t id() const { return id_; }
  bool is_host() const { return is_host_; }
  // Where bytes of a rank's memory are here. Throws Error(ncclInvalidArgument) if they are beyond its end, or cannot be
  // reached from here.
  CUdeviceptr at(int rank, uint64_t offset, uint64_t bytes) const;
  // The owner's address of a signal, or Error(ncclInvalidArgument). Peers have registered as much as we have.
  CUdeviceptr signal_at(uint64_t offset) const;
  // Values of the signals that only we change; empty if others may.
  std::vector<uint64_t>& signal_values() { return signal_values_; }

 private:
  struct Place {
    CUdeviceptr address = 0;  // none: cannot be reached
    uint64_t bytes = 0;
    Mapping mapping;
  };

  int rank_;
  uint64_t id_ = 0;
  bool is_host_;
  std::vector<Place> places_;  // by rank
  std::vector<uint64_t> signal_values_;
};

}  // namespace nccl_ep::loopback
