// SPDX-License-Identifier: Apache-2.0
// Does the work in streams on the simulated GPUs: starts each piece after a random delay, and lets go of what
// waits for it when it is done. Runs while the GPUs move, except for what says otherwise.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "sim/checker.hpp"
#include "sim/executor.hpp"
#include "sim/random.hpp"
#include "sim/stream.hpp"
#include "sim/work.hpp"

namespace nccl_ep::sim {

class Engine {
 public:
  // `checker` may be null.
  Engine(Executor& executor, check::Checker* checker, uint32_t num_ranks, Random random);

  // Starts the first work of the stream if it is not running yet.
  void start(Stream& stream);

  // Called between moves. A silent rank's work does not start, and what was about to start stands still.
  void set_silent(uint32_t rank, bool silent);
  bool is_silent(uint32_t rank) const { return gpus_[rank].silent; }
  // Later work of the rank starts up to this many steps late; 0 restores the seed's own bound.
  void set_delay(uint32_t rank, uint64_t steps) { gpus_[rank].extra_delay = steps; }

  // Goes on with what stood still on ranks that are no longer silent.
  void resume_awake();

  // Calls `action` after a random delay below `bound` steps, or when the rank wakes if it is silent then.
  void after_delay(uint32_t rank, uint64_t bound, std::function<void()> action);
  // A digest of what has been started and when.
  uint64_t hash() const { return hash_; }

 private:
  struct GraphRun;

  void after_delay(uint32_t rank, std::function<void()> action) { after_delay(rank, delay_bound_, std::move(action)); }
  struct Gpu {
    bool silent = false;
    uint64_t extra_delay = 0;
    std::vector<std::function<void()>> stalled;
  };

  void run(uint32_t rank, const Work& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const KernelWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const CopyWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const FillWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const RecordWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const WaitWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void run(uint32_t rank, const GraphWork& work, check::Knowledge& knowledge, std::function<void()> done);
  void check_transfer(uint32_t rank, const char* what, const void* begin, size_t bytes);
  void end_transfer(uint32_t rank, check::Operation* operation, check::Knowledge& knowledge,
                    std::function<void()> done);
  void start_node(const std::shared_ptr<GraphRun>& graph_run, uint32_t node);
  void finish_node(const std::shared_ptr<GraphRun>& graph_run, uint32_t node);
  void finish(Stream& stream);

  Executor& executor_;
  check::Checker* checker_;
  std::vector<Gpu> gpus_;
  Random random_;
  uint64_t delay_bound_;
  uint64_t hash_ = 0;
};

}  // namespace nccl_ep::sim
