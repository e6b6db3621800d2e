// SPDX-License-Identifier: Apache-2.0
// The network: carries out what kernels start through device/gin.hpp, in random pieces at random times.
//
// Each context of a rank has words in device memory that kernels poll: its signals, its counters, and how
// many of its operations are flushed. Everything here runs while the GPUs move, but for connect().
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "device/gin.hpp"
#include "runtime/runtime.hpp"
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

struct GinNetwork;

// One rank's end of a network: what the handle of a GinComm points at.
struct GinPort {
  class GinEngine* engine;
  GinNetwork* network;
  uint32_t rank;
};

class GinEngine {
 public:
  // `checker` may be null.
  GinEngine(Cluster& cluster, check::Checker* checker, Random random);
  ~GinEngine();

  // For the host: what kernels of `rank` need to use its next network. The n-th one of a rank is the n-th one of the
  // others, and may be used when all have theirs.
  GinComm connect(uint32_t rank, const runtime::NetworkNeeds& needs);
  // Gives back what a rank's connect() has taken. Signals that come later are lost on it.
  void disconnect(const GinComm& comm);

  // For Gin's calls: on the fiber of a thread of the port's rank. Requests that make no sense fail the thread.
  void issue(const GinPort& port, uint32_t context, const GinRequest& request, check::Pc pc);
  uint64_t num_issued(const GinPort& port, uint32_t context) const;
  // The word that says how many of the context's operations, in the order of their issue, are flushed.
  const uint64_t* flushed(const GinPort& port, uint32_t context) const;
  // The current thread has seen that all its operations are flushed.
  void acquire_flushed(const GinPort& port, uint32_t context);
  uint64_t* counter(const GinPort& port, uint32_t context, uint32_t counter, check::Pc pc) const;
  // A signal of this rank.
  uint64_t* signal(const GinPort& port, uint32_t context, dev::Signal signal, check::Pc pc) const;

  // Nothing that is under way to or from the rank arrives any more.
  void lose(uint32_t rank);

 private:
  struct Operation;
  using OperationPtr = std::shared_ptr<Operation>;

  std::byte* locate(uint32_t rank, uint32_t on_rank, dev::WindowAddress address, uint64_t bytes, check::Pc pc) const;
  uint64_t* locate_signal(const GinPort& port, uint32_t on_rank, uint32_t context, dev::Signal signal,
                          check::Pc pc) const;
  bool is_lost(const Operation& operation) const;
  void forget_closed();
  // What is under way keeps its network, which all may have closed meanwhile.
  void after_delay(const Operation& operation, uint64_t delay, std::function<void()> action);

  void count(const Operation& operation);
  void announce(Operation& operation, check::Pc pc);
  void await_earlier(Operation& operation);
  void start_pieces(const OperationPtr& operation);
  void start_piece(const OperationPtr& operation, uint64_t offset, uint64_t bytes);
  void forget_read(const Operation& operation);
  void finish_read(const OperationPtr& operation);
  void finish_landing(const OperationPtr& operation);
  void finish_flush(const OperationPtr& operation);
  void deliver_if_ready(const OperationPtr& operation);
  void deliver(const Operation& operation, uint64_t* word, uint64_t value, const check::Knowledge& knowledge);
  void close(Operation& operation);

  Cluster& cluster_;
  check::Checker* checker_;
  Random random_;
  uint64_t read_delay_;
  uint64_t landing_delay_;
  uint64_t signal_delay_;
  std::map<uint64_t, std::shared_ptr<GinNetwork>> networks_;  // by their numbers
  std::vector<uint64_t> num_connected_;                       // networks that each rank has connected to so far
  std::vector<bool> lost_;                                    // ranks

  friend struct GinNetwork;
};

}  // namespace nccl_ep::sim
