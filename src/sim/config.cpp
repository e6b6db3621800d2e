// SPDX-License-Identifier: Apache-2.0
#include "sim/config.hpp"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/addresses.hpp"
#include "runtime/error.hpp"
#include "sim/random.hpp"

namespace nccl_ep::sim {

namespace {

constexpr uint32_t kMaxGpus = 256;

[[noreturn]] void reject(const std::string& field, uint64_t value, const std::string& expected) {
  throw Error(ncclInvalidArgument,
              "ncclEpSimConfig_t." + field + " is " + std::to_string(value) + ", expected " + expected);
}

void check_at_most(const std::string& field, uint64_t value, uint64_t limit) {
  if (value > limit) reject(field, value, "at most " + std::to_string(limit));
}

uint64_t seed_from_environment() {
  const char* text = std::getenv("NCCL_EP_SIM_SEED");
  if (text == nullptr || *text == '\0') return 1;
  uint64_t seed = 0;
  const char* end = text + std::strlen(text);
  const auto parsed = std::from_chars(text, end, seed);
  if (parsed.ec != std::errc() || parsed.ptr != end || seed == 0) {
    throw Error(ncclInvalidArgument,
                "NCCL_EP_SIM_SEED is \"" + std::string(text) + "\", expected a positive decimal number");
  }
  return seed;
}

template <class T>
void set_default(T& field, T value) {
  if (field == T{}) field = value;
}

void check(const ncclEpSimConfig_t& config) {
  check_at_most("num_nodes", config.num_nodes, kMaxGpus);
  check_at_most("gpus_per_node", config.gpus_per_node, kMaxGpus / config.num_nodes);
  if (config.gpus_per_node % config.lsa_team_size != 0) {
    reject("lsa_team_size", config.lsa_team_size,
           "a divisor of gpus_per_node (" + std::to_string(config.gpus_per_node) + ")");
  }
  check_at_most("sms_per_gpu", config.sms_per_gpu, 1024);
  check_at_most("max_threads_per_block", config.max_threads_per_block, 1024);
  if (config.max_threads_per_block % 32 != 0) {
    reject("max_threads_per_block", config.max_threads_per_block, "a multiple of 32");
  }
  check_at_most("max_shared_bytes", config.max_shared_bytes, 1 << 20);
  check_at_most("memory_bytes", config.memory_bytes, runtime::kAddressableBytes);
  check_at_most("checker", config.checker, NCCL_EP_SIM_SWITCH_ON);
  check_at_most("network", config.network, NCCL_EP_SIM_NETWORK_RAILS);
  check_at_most("stores", config.stores, NCCL_EP_SIM_STORES_LATE);
  check_at_most("schedule", config.schedule, NCCL_EP_SIM_SCHEDULE_STARVE);
}

}  // namespace

ncclEpSimConfig_t resolve(const ncclEpSimConfig_t* config) {
  ncclEpSimConfig_t resolved = NCCL_EP_SIM_CONFIG_INIT;
  if (config != nullptr) {
    if (config->magic != NCCL_EP_SIM_MAGIC || config->size != sizeof(ncclEpSimConfig_t)) {
      throw Error(ncclInvalidArgument, "ncclEpSimConfig_t has size " + std::to_string(config->size) + ", expected " +
                                           std::to_string(sizeof(ncclEpSimConfig_t)) +
                                           "; initialise it with NCCL_EP_SIM_CONFIG_INIT");
    }
    resolved = *config;
  }
  set_default(resolved.num_nodes, 1u);
  set_default(resolved.gpus_per_node, 8u);
  set_default(resolved.lsa_team_size, resolved.gpus_per_node);
  set_default(resolved.sms_per_gpu, 4u);
  set_default(resolved.max_threads_per_block, 128u);
  set_default(resolved.max_shared_bytes, 227u * 1024);
  set_default(resolved.memory_bytes, uint64_t{1} << 30);
  set_default(resolved.checker, NCCL_EP_SIM_SWITCH_ON);
  set_default(resolved.num_gin_contexts, 4u);
  set_default(resolved.network, NCCL_EP_SIM_NETWORK_ON);
  check(resolved);
  if (resolved.seed == 0) resolved.seed = seed_from_environment();

  Random random(resolved.seed);
  const uint64_t stores = random.below(2);
  const uint64_t schedule = random.below(4);
  set_default(resolved.stores, static_cast<ncclEpSimStores_t>(NCCL_EP_SIM_STORES_RANDOM + stores));
  set_default(resolved.schedule, static_cast<ncclEpSimSchedule_t>(NCCL_EP_SIM_SCHEDULE_WARPS + schedule));
  return resolved;
}

}  // namespace nccl_ep::sim
