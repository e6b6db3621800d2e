// SPDX-License-Identifier: Apache-2.0
// A simulated cluster: GPUs that one thread of its own moves, and the host side of every rank.
//
// Everything is under one lock, which that thread holds while the GPUs move. It moves them until a host that
// waits can go on, and not again before all hosts wait.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "nccl_ep_sim.h"
#include "sim/checker.hpp"
#include "sim/collectives.hpp"
#include "sim/config.hpp"
#include "sim/counters.hpp"
#include "sim/engine.hpp"
#include "sim/executor.hpp"
#include "sim/gin.hpp"
#include "sim/hosts.hpp"
#include "sim/rank.hpp"

namespace nccl_ep::sim {

struct Failure {
  ncclEpSimFailure_t kind = NCCL_EP_SIM_FAILURE_NONE;
  std::string report;
};

class Cluster : public std::enable_shared_from_this<Cluster> {
 public:
  explicit Cluster(const ncclEpSimConfig_t& config);
  ~Cluster();
  Cluster(const Cluster&) = delete;
  Cluster& operator=(const Cluster&) = delete;

  const ncclEpSimConfig_t& config() const { return config_; }
  const Topology& topology() const { return topology_; }
  // The cluster belongs to the process that made it, which has the thread that moves the GPUs: a forked one has not, and
  // finds the lock in any state. There, lock() throws.
  bool is_of_this_process() const { return process_ == getpid(); }
  void check_process() const;
  Hosts::Lock lock() {
    check_process();
    return Hosts::Lock(mutex_);
  }

  // All that follows is called under the lock.
  Rank& rank(int rank);
  Hosts& hosts() { return hosts_; }
  Executor& executor() { return *executor_; }
  Engine& engine() { return *engine_; }
  GinEngine& gin() { return *gin_; }
  LinkCounters& counters() { return counters_; }
  const Failure& failure() const { return failure_; }
  // Before a host puts work on its GPU: throws the failure if there is one.
  void begin_work(Rank& rank);

  // Device memory of a rank. release() takes what allocate() gave.
  void* allocate(Rank& rank, MemoryBytes bytes, Memory::Zone zone);
  void release(Rank& rank, void* memory);
  // Throws if that is device memory but not part of one allocation.
  void check_access(const void* begin, size_t bytes, const std::string& what);

  // Waits until the GPUs have made `ready` true. Throws after a failure, and on behalf of a silent rank.
  void wait(Hosts::Lock& lock, Rank& rank, const std::string& what, std::function<bool()> ready);
  // Lets the GPUs move a little, so that a host may poll. A host that does nothing else for long waits
  // instead, so that a deadlock is found.
  void yield(Hosts::Lock& lock, Rank& rank, std::function<bool()> ready);
  // A collective call: every rank's contribution.
  std::vector<Collectives::Bytes> gather(Hosts::Lock& lock, Rank& rank, const std::string& name,
                                         Collectives::Bytes contribution);

  uint64_t schedule_hash() const;
  void set_silent(uint32_t rank, bool silent);
  void silence_after(uint32_t rank, uint64_t steps);
  void stop_warps_after(uint32_t rank, uint32_t first_block, uint32_t first_warp, uint64_t steps);
  void wake(uint32_t rank);
  void wake_after(uint32_t rank, uint64_t steps);
  void lose_node(int node);

 private:
  bool has_failed() const { return failure_.kind != NCCL_EP_SIM_FAILURE_NONE; }
  void throw_if_failed() const;
  void run_gpus();
  void move();
  void start_streams();
  void fail(ncclEpSimFailure_t kind, std::string_view text) noexcept;

  const ncclEpSimConfig_t config_;
  const Topology topology_;
  const pid_t process_ = getpid();
  std::mutex mutex_;
  Hosts hosts_;
  Collectives collectives_;
  LinkCounters counters_;
  std::unique_ptr<check::Checker> checker_;  // null when it is off
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<Engine> engine_;
  std::unique_ptr<GinEngine> gin_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  Failure failure_;
  bool stopping_ = false;
  std::thread gpus_;
};

}  // namespace nccl_ep::sim
