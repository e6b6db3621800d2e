// SPDX-License-Identifier: Apache-2.0
// Some simulated GPUs without streams and hosts, for kernels that use one thing each.
#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "sim/config.hpp"
#include "sim/executor.hpp"
#include "sim_executor_kernels.hpp"

namespace nccl_ep::sim::test {

using nccl_ep::test::Args;

constexpr uint32_t kWords = 8192;

inline ncclEpSimConfig_t small_config(uint64_t seed, uint32_t num_ranks = 2) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = num_ranks;
  config.seed = seed;
  config.memory_bytes = 1 << 20;
  config.checker = NCCL_EP_SIM_SWITCH_OFF;
  return resolve(&config);
}

// Some ranks, each with the same zeroed words of memory.
struct World {
  explicit World(const ncclEpSimConfig_t& config)
      : config(config), counters(topology_of(config).num_ranks()), num_ranks(topology_of(config).num_ranks()) {
    if (config.checker == NCCL_EP_SIM_SWITCH_ON) {
      checker = std::make_unique<check::Checker>([this](uintptr_t address) { return executor->describe(address); });
    }
    executor = std::make_unique<Executor>(config, checker.get(), counters);
    streams.resize(num_ranks);
    for (uint32_t rank = 0; rank < num_ranks; ++rank) {
      words.push_back(static_cast<uint32_t*>(executor->memory().allocate(rank, {4 * kWords}, Memory::Zone::symmetric)));
      std::memset(words[rank], 0, 4 * kWords);
    }
  }

  void launch(uint32_t rank, const std::string& kernel, uint32_t num_blocks, uint32_t num_threads) {
    const Args args{{reinterpret_cast<uint64_t>(words[0]), executor->memory().stride()}, rank, num_ranks};
    std::vector<std::byte> bytes(sizeof(args));
    std::memcpy(bytes.data(), &args, sizeof(args));
    const KernelEntry* entry = find_kernel(kernel);
    REQUIRE(entry != nullptr);
    const runtime::LaunchShape shape{num_blocks, num_threads, 8192};
    executor->check_launch(*entry, shape, sizeof(args));
    executor->launch(rank, *entry, shape, bytes, streams[rank], [this] { ++num_done; });
  }
  // On every rank.
  Executor::Outcome run(const std::string& kernel, uint32_t num_blocks = 1, uint32_t num_threads = 64) {
    for (uint32_t rank = 0; rank < num_ranks; ++rank) launch(rank, kernel, num_blocks, num_threads);
    return executor->run();
  }
  std::string report() const { return executor->failure() ? executor->failure()->report : ""; }
  ncclEpSimFailure_t failure() const {
    return executor->failure() ? executor->failure()->kind : NCCL_EP_SIM_FAILURE_NONE;
  }

  const ncclEpSimConfig_t config;
  LinkCounters counters;
  const uint32_t num_ranks;
  std::unique_ptr<check::Checker> checker;
  std::unique_ptr<Executor> executor;
  std::vector<check::Knowledge> streams;
  std::vector<uint32_t*> words;
  uint32_t num_done = 0;
};

constexpr ncclEpSimSchedule_t kSchedules[] = {NCCL_EP_SIM_SCHEDULE_WARPS, NCCL_EP_SIM_SCHEDULE_BURSTS,
                                              NCCL_EP_SIM_SCHEDULE_UNIFORM, NCCL_EP_SIM_SCHEDULE_STARVE};

// Every schedule, with the checker and without.
template <class Body>
void over_many_seeds(Body body, uint32_t num_ranks = 2) {
  for (uint64_t seed = 1; seed <= 24; ++seed) {
    ncclEpSimConfig_t config = small_config(seed, num_ranks);
    config.schedule = kSchedules[seed % 4];
    config.checker = seed % 8 < 4 ? NCCL_EP_SIM_SWITCH_ON : NCCL_EP_SIM_SWITCH_OFF;
    CAPTURE(seed);
    World world(config);
    body(world);
  }
}

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

}  // namespace nccl_ep::sim::test
