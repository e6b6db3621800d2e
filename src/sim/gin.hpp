// SPDX-License-Identifier: Apache-2.0
// The network: carries out what kernels start through device/gin.hpp, in random pieces at random times.
//
// Each context of a rank has words in device memory that kernels poll: its signals, its counters, and how
// many of its operations are flushed. Everything here runs while the GPUs move.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "device/gin.hpp"
#include "sim/checker.hpp"
#include "sim/random.hpp"

namespace nccl_ep::sim {

class Cluster;

struct GinRequest {
  enum class Kind { put, put_value, get, signal };
  Kind kind = Kind::put;
  uint32_t peer = 0;
  dev::WindowAddress at_peer = {};
  dev::WindowAddress local = {};
  uint64_t bytes = 0;
  uint64_t value = 0;  // put_value
  dev::SignalAction signal = {};
  uint32_t counter = dev::kNoCounter;
};

// What the handle of a GinComm points at.
struct GinPort {
  class GinEngine* engine;
  uint32_t rank;
};

class GinEngine {
 public:
  // `checker` may be null.
  GinEngine(Cluster& cluster, check::Checker* checker, Random random);
  ~GinEngine();

  // What kernels of `rank` need to use the network.
  GinComm comm(uint32_t rank);

  // For Gin's calls: on the fiber of a thread of `rank`. Requests that make no sense fail the thread.
  void issue(uint32_t rank, uint32_t context, const GinRequest& request, check::Pc pc);
  uint64_t num_issued(uint32_t rank, uint32_t context) const;
  // The word that says how many of the context's operations, in the order of their issue, are flushed.
  const uint64_t* flushed(uint32_t rank, uint32_t context) const;
  // The current thread has seen that all its operations are flushed.
  void acquire_flushed(uint32_t rank, uint32_t context);
  uint64_t* counter(uint32_t rank, uint32_t context, uint32_t counter, check::Pc pc) const;
  // A signal of this rank.
  uint64_t* signal(uint32_t rank, uint32_t context, dev::Signal signal, check::Pc pc) const;

  // Nothing that is under way to or from the rank arrives any more.
  void lose(uint32_t rank);

 private:
  struct Context;
  struct Operation;
  struct Piece;
  using OperationPtr = std::shared_ptr<Operation>;

  Context& context(uint32_t rank, uint32_t index) const;
  std::byte* locate(uint32_t rank, uint32_t on_rank, dev::WindowAddress address, uint64_t bytes, check::Pc pc) const;
  uint64_t* locate_signal(uint32_t rank, uint32_t on_rank, uint32_t context, dev::Signal signal, check::Pc pc) const;
  bool is_lost(const Operation& operation) const;

  void count(const Operation& operation);
  void announce(Operation& operation, check::Pc pc);
  void await_earlier(Operation& operation);
  void start_pieces(const OperationPtr& operation);
  void start_piece(const OperationPtr& operation, uint64_t offset, uint64_t bytes);
  void finish_read(const OperationPtr& operation);
  void finish_landing(const OperationPtr& operation);
  void finish_flush(const OperationPtr& operation);
  void deliver_if_ready(const OperationPtr& operation);
  void add(uint64_t* word, uint64_t value);
  void close(Operation& operation);

  Cluster& cluster_;
  check::Checker* checker_;
  Random random_;
  uint64_t read_delay_;
  uint64_t landing_delay_;
  uint64_t signal_delay_;
  std::vector<std::unique_ptr<Context>> contexts_;  // of rank 0, then of rank 1, ...
  std::vector<bool> lost_;                          // ranks
  std::vector<GinPort> ports_;
};

}  // namespace nccl_ep::sim
