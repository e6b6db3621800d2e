// SPDX-License-Identifier: Apache-2.0
// A group of ranks that reach one another: a socket between every two of them for setting up, a mailbox for the
// signals to each, registered memory, and the streams that all contexts of the group share.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gin_loopback/faults.hpp"
#include "gin_loopback/lane.hpp"
#include "gin_loopback/mailbox.hpp"
#include "gin_loopback/memory.hpp"
#include "gin_loopback/nccl_plugin.hpp"
#include "gin_loopback/signals.hpp"

namespace nccl_ep::loopback {

class Listener {
 public:
  // Writes the handle, of kHandleBytes, with which others connect.
  explicit Listener(void* handle);
  const Socket& socket() const { return socket_; }

 private:
  Socket socket_;
};

// NCCL calls from its progress thread and from the user's threads. Functions that say "locked" need lock(); those that
// wait for peers must not be called with it, since the progress of what is under way would wait too.
class Connection {
 public:
  // Collective. Throws Error(ncclRemoteError) naming a rank that is gone or does not come.
  Connection(const Listener& listener, void* const handles[], int num_ranks, int rank);
  ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  int rank() const { return rank_; }
  int num_ranks() const { return num_ranks_; }
  CUcontext cuda_context() const { return cuda_context_; }
  std::unique_lock<std::mutex> lock() { return std::unique_lock(mutex_); }

  // Collective. The memory lives until it is deregistered, or until the connection ends.
  Memory& register_memory(void* data, size_t bytes, int type, uint64_t flags);
  // What is under way has ended with the call, so the memory can be given back.
  void deregister(const Memory& memory);

  // Locked. Copies that have landed are told so, signals that have come are added.
  void progress();
  // Locked. Returns false if it has to be tried again. A rank that is gone gets no more signals.
  bool post(uint32_t rank, const Signal& signal);
  // Locked. Whether a rank's process has ended without closing its connection; says so in the log once.
  bool has_lost_a_rank();

  // Locked.
  std::vector<std::unique_ptr<Lane>>& lanes() { return lanes_; }
  Faults& faults() { return faults_; }

  // Nothing can be relied on after a failure of CUDA.
  void set_failed() { has_failed_ = true; }
  bool has_failed() const { return has_failed_; }

 private:
  struct Peer {
    Socket socket;
    std::optional<Mailbox> mailbox;
    bool is_reported_lost = false;
  };

  void meet(const Listener& listener, void* const handles[]);
  int welcome(const Socket& socket);
  void exchange(Memory& memory, const MemoryOffer& offer, const File& file);
  // Runs `body`; a failure says which two ranks it is between.
  template <class Body>
  auto with_peer(int peer, Body&& body);

  int rank_;
  int num_ranks_;
  CUcontext cuda_context_;
  std::mutex mutex_;
  std::atomic<bool> has_failed_{false};
  std::vector<Peer> peers_;  // the own mailbox among them
  std::map<uint64_t, std::unique_ptr<Memory>> memories_;
  uint64_t num_registered_ = 0;
  std::vector<std::unique_ptr<Lane>> lanes_;
  std::unique_ptr<SignalWriter> signal_writer_;
  Faults faults_;
};

}  // namespace nccl_ep::loopback
