// SPDX-License-Identifier: Apache-2.0
#include "sim/cluster.hpp"

#include <exception>
#include <new>
#include <utility>

#include "runtime/error.hpp"
#include "sim/communicator.hpp"
#include "sim/scheduler.hpp"

namespace nccl_ep::sim {

namespace {

constexpr uint64_t kPollSteps = 1024;
constexpr uint32_t kMaxPolls = 256;

std::unique_ptr<runtime::Communicator> open_communicator(runtime::ForeignCommunicator* self) {
  const auto* comm = static_cast<SimComm*>(self);
  return std::make_unique<SimCommunicator>(comm->cluster->shared_from_this(), comm->rank);
}

}  // namespace

Cluster::Cluster(const ncclEpSimConfig_t& config)
    : config_(config),
      topology_(topology_of(config)),
      hosts_(topology_.num_ranks()),
      collectives_(topology_.num_ranks()),
      counters_(topology_.num_ranks()) {
  Random random(config.seed);
  if (config.checker == NCCL_EP_SIM_SWITCH_ON) {
    checker_ = std::make_unique<check::Checker>([this](uintptr_t address) { return executor_->describe(address); });
  }
  executor_ = std::make_unique<Executor>(config, checker_.get(), counters_);
  engine_ = std::make_unique<Engine>(*executor_, checker_.get(), topology_.num_ranks(), random.fork());
  gin_ = std::make_unique<GinEngine>(*this, checker_.get(), random.fork());
  for (uint32_t index = 0; index < topology_.num_ranks(); ++index) {
    Rank& rank = *ranks_.emplace_back(std::make_unique<Rank>(index, executor_->memory()));
    rank.comm.open = &open_communicator;
    rank.comm.cluster = this;
    rank.comm.rank = index;
  }
  gpus_ = std::thread([this] { run_gpus(); });
}

Cluster::~Cluster() {
  {
    const Hosts::Lock held = lock();
    stopping_ = true;
    hosts_.wake_gpus();
  }
  gpus_.join();
}

void Cluster::check_process() const {
  if (is_of_this_process()) return;
  throw Error(ncclInvalidUsage,
              "the cluster was made before fork(), and its GPUs have stayed with the parent; expected one that this "
              "process has made");
}

Rank& Cluster::rank(int index) {
  if (index < 0 || static_cast<size_t>(index) >= ranks_.size()) {
    throw Error(ncclInvalidArgument,
                "rank is " + std::to_string(index) + ", expected 0 to " + std::to_string(ranks_.size() - 1));
  }
  return *ranks_[static_cast<size_t>(index)];
}

// ---- Memory

void* Cluster::allocate(Rank& rank, MemoryBytes bytes, Memory::Zone zone) {
  void* memory = executor_->memory().allocate(rank.index, bytes, zone);
  rank.device_memory.emplace(memory, DeviceAllocation{bytes, zone});
  return memory;
}

void Cluster::release(Rank& rank, void* memory) {
  rank.device_memory.erase(memory);
  executor_->memory().release(rank.index, memory);
  rank.collect_idle();
}

void Cluster::check_access(const void* begin, size_t bytes, const std::string& what) {
  const uint32_t owner = executor_->memory().owner(begin);
  if (owner == Memory::kNobody || bytes == 0) return;
  if (executor_->memory().find_allocation(owner, begin, bytes) != nullptr) return;
  throw Error(ncclInvalidArgument, what + " is " + executor_->describe(reinterpret_cast<uintptr_t>(begin)) + " and " +
                                       std::to_string(bytes) + " bytes long, which does not lie in one allocation");
}

// ---- Waiting

void Cluster::throw_if_failed() const {
  if (has_failed()) throw Error(ncclInternalError, failure_.report);
}

void Cluster::begin_work(Rank& rank) {
  throw_if_failed();
  rank.collect_idle();
  rank.num_polls = 0;
}

void Cluster::wait(Hosts::Lock& lock, Rank& rank, const std::string& what, std::function<bool()> ready) {
  throw_if_failed();
  const auto is_silent = [this, &rank] { return engine_->is_silent(rank.index); };
  hosts_.wait(lock, rank.index, what, [=, this] { return has_failed() || ready() || is_silent(); });
  throw_if_failed();
  if (!ready()) {
    throw Error(ncclSystemError,
                "rank " + std::to_string(rank.index) + " waits for " + what + ", but its GPU has been silenced");
  }
}

void Cluster::yield(Hosts::Lock& lock, Rank& rank, std::function<bool()> ready) {
  const auto moved = std::make_shared<bool>(false);
  if (rank.num_polls < kMaxPolls) rank.poll = moved;
  ++rank.num_polls;
  wait(lock, rank, "what it polls for", [=] { return *moved || ready(); });
  if (ready()) rank.num_polls = 0;
}

std::vector<Collectives::Bytes> Cluster::gather(Hosts::Lock& lock, Rank& rank, const std::string& name,
                                                Collectives::Bytes contribution) {
  throw_if_failed();
  hosts_.check_entered(rank.index);  // first: a contribution cannot be taken back
  const uint64_t call = collectives_.arrive(rank.index, name, std::move(contribution), rank.host);
  if (collectives_.is_complete(call)) hosts_.release_ready();
  hosts_.wait(lock, rank.index, "all ranks to make their collective call " + std::to_string(call) + ", here " + name,
              [this, call] { return has_failed() || collectives_.is_complete(call); });
  throw_if_failed();
  return collectives_.take(call, rank.host);
}

// ---- Moving the GPUs

void Cluster::run_gpus() {
  Hosts::Lock held = lock();
  while (true) {
    hosts_.await_gpus_may_move(held, stopping_);
    if (stopping_) return;
    // What is thrown here has nobody above it to go to.
    try {
      move();
    } catch (const std::bad_alloc&) {
      fail(NCCL_EP_SIM_FAILURE_LIMIT, Executor::kNoHostMemory);
    } catch (const std::exception& error) {
      fail(NCCL_EP_SIM_FAILURE_LIMIT, error.what());
    }
  }
}

void Cluster::move() {
  while (!hosts_.release_ready()) {
    start_streams();
    switch (executor_->run()) {
      case Executor::Outcome::paused: break;
      case Executor::Outcome::idle:
        if (hosts_.release_ready()) return;
        fail(NCCL_EP_SIM_FAILURE_HOST_DEADLOCK, "all hosts wait and the GPUs have nothing to do\n" + hosts_.describe());
        break;
      case Executor::Outcome::failed: fail(executor_->failure()->kind, executor_->failure()->report); break;
    }
  }
}

void Cluster::start_streams() {
  engine_->resume_awake();
  for (const auto& rank : ranks_) {
    rank->collect_idle();
    for (Stream* stream : rank->all_streams()) engine_->start(*stream);
    if (rank->poll == nullptr) continue;
    executor_->after(kPollSteps, [this, moved = std::exchange(rank->poll, nullptr)] {
      *moved = true;
      executor_->request_pause();
    });
  }
}

// Without memory for a report, the failure stands without one.
void Cluster::fail(ncclEpSimFailure_t kind, std::string_view text) noexcept {
  failure_.kind = kind;
  try {
    failure_.report = "simulated cluster of " + std::to_string(config_.num_nodes) + " x " +
                      std::to_string(config_.gpus_per_node) + " GPUs, seed " + std::to_string(config_.seed) +
                      " (NCCL_EP_SIM_SEED=" + std::to_string(config_.seed) + " repeats it): " + std::string(text);
  } catch (const std::exception&) {
    failure_.report.clear();
  }
}

uint64_t Cluster::schedule_hash() const { return executor_->schedule_hash() ^ engine_->hash(); }

// ---- Faults to inject

void Cluster::set_silent(uint32_t rank, bool silent) {
  engine_->set_silent(rank, silent);
  if (silent) hosts_.release_ready();
}

void Cluster::silence_after(uint32_t rank, uint64_t steps) {
  executor_->after(steps, [this, rank] {
    set_silent(rank, true);
    executor_->request_pause();
  });
}

void Cluster::stop_warps_after(uint32_t rank, uint32_t first_block, uint32_t first_warp, uint64_t steps) {
  executor_->after(steps, [=, this] { executor_->stop_warps(rank, first_block, first_warp); });
}

void Cluster::wake(uint32_t rank) {
  set_silent(rank, false);
  executor_->stop_warps(rank, Scheduler::kNone, Scheduler::kNone);
}

void Cluster::wake_after(uint32_t rank, uint64_t steps) {
  executor_->after(steps, [this, rank] {
    wake(rank);
    executor_->request_pause();  // its streams go on as well
  });
}

void Cluster::lose_node(int node) {
  if (node < 0 || static_cast<uint32_t>(node) >= config_.num_nodes) {
    throw Error(ncclInvalidArgument,
                "node is " + std::to_string(node) + ", expected 0 to " + std::to_string(config_.num_nodes - 1));
  }
  for (uint32_t rank = 0; rank < topology_.num_ranks(); ++rank) {
    if (topology_.node_of(rank) != static_cast<uint32_t>(node)) continue;
    set_silent(rank, true);
    gin_->lose(rank);
  }
}

}  // namespace nccl_ep::sim
