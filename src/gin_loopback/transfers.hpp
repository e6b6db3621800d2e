// SPDX-License-Identifier: Apache-2.0
// Contexts: puts, gets and signals on their way. A context has a queue for every rank, the own one included. What is
// kept is what NCCL promises, and nothing more when faults are asked for: transfers of a queue overtake one another; a
// strong signal is sent after all earlier puts of its queue have landed, a weak one after its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <optional>
#include <vector>

#include "gin_loopback/connection.hpp"

namespace nccl_ep::loopback {

// Bytes of registered memory.
struct Region {
  const Memory* memory;
  uint64_t offset;
};

struct PutSignal {
  Region word;
  uint64_t value;
  bool is_strong;
};

class Contexts;

// What NCCL calls a request.
struct Transfer {
  Contexts* owner;
  Copy copy;
  bool is_put;
  std::optional<Signal> signal;  // until it is sent
  bool is_strong;
  std::chrono::steady_clock::time_point start_time;
  bool has_started;
  bool has_landed;
  bool is_done;
};

// Some contexts, made at once. Thread-safe.
class Contexts {
 public:
  Contexts(Connection& connection, int count);
  // Waits until what was asked for is done.
  ~Contexts();
  Contexts(const Contexts&) = delete;
  Contexts& operator=(const Contexts&) = delete;

  Connection& connection() { return connection_; }

  // Throw Error(ncclInvalidArgument) for bytes that cannot be reached. The request lives until test() finds it done.
  Transfer* put(int context, uint32_t rank, Region dst, Region src, uint64_t bytes, const PutSignal* signal);
  Transfer* get(int context, uint32_t rank, Region local_dst, Region src, uint64_t bytes);
  bool test(Transfer* transfer);

  void progress();

 private:
  using Queue = std::vector<Transfer*>;  // oldest first

  size_t queue_of(int context, uint32_t rank) const;
  Copy::Kind kind_of_copy(uint32_t rank) const;
  Transfer* enqueue(size_t queue, const Transfer& transfer);
  void start_copies(size_t queue, std::chrono::steady_clock::time_point now);
  void finish_transfers(size_t queue);
  bool has_open_transfers();
  void drain();

  Connection& connection_;
  int count_;
  bool is_ending_ = false;     // no more delays
  std::vector<Queue> queues_;  // by context and rank
  std::deque<Transfer> transfers_;
  std::vector<Transfer*> unused_;
};

}  // namespace nccl_ep::loopback
