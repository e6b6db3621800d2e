// SPDX-License-Identifier: Apache-2.0
// The ranks' host threads: who acts for which rank, who waits for what, and whether the GPUs may move.
//
// The GPUs move only while every rank has entered or left and every thread inside waits. What happens between
// two such moments therefore depends on what the hosts do, never on how fast they do it. A session ends when
// the last rank leaves; then all may enter again.
//
// All functions are called under the cluster's lock.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace nccl_ep::sim {

class Hosts {
 public:
  using Lock = std::unique_lock<std::mutex>;

  explicit Hosts(uint32_t num_ranks) : ranks_(num_ranks) {}

  // Waits for the end of a session that the rank has left already.
  void enter(Lock& lock, uint32_t rank);
  void leave(uint32_t rank);
  bool anyone_inside() const { return !threads_.empty(); }
  // Throws unless the calling thread has entered the rank.
  void check_entered(uint32_t rank) const;

  // Returns once `ready` holds. `ready` looks only at what the lock protects; `what` completes "rank 3 waits
  // for ...".
  void wait(Lock& lock, uint32_t rank, std::string what, std::function<bool()> ready);
  // Wakes the threads whose wait is over; true if there were any.
  bool release_ready();

  bool gpus_may_move() const;
  // Blocks the caller, the thread that moves the GPUs, until it may do so or `stopping` is set.
  void await_gpus_may_move(Lock& lock, const bool& stopping);
  void wake_gpus() { gpus_.notify_all(); }

  // A line for each rank, for the report of a deadlock.
  std::string describe() const;

 private:
  enum class Presence { outside, inside, left };
  struct Rank {
    Presence presence = Presence::outside;
    std::thread::id thread;
  };
  struct Thread {
    uint32_t num_ranks = 0;
    bool waiting = false;
    uint32_t waiting_rank = 0;
    std::string what;
    std::function<bool()> ready;
    std::condition_variable released;
  };

  std::vector<Rank> ranks_;
  std::map<std::thread::id, Thread> threads_;  // those inside
  std::condition_variable session_ended_;
  std::condition_variable gpus_;
};

}  // namespace nccl_ep::sim
