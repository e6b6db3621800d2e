// SPDX-License-Identifier: Apache-2.0
#include "sim/kernel_registry.hpp"

#include <map>
#include <mutex>

namespace nccl_ep::sim {

namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::string, KernelEntry, std::less<>> kernels;
};

// Made at the first use: kernels register themselves while libraries are loaded, in any order.
Registry& registry() {
  static Registry registry;
  return registry;
}

}  // namespace

bool register_kernel(const char* name, KernelFunction function, size_t args_bytes) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  all.kernels[name] = {name, function, args_bytes};
  return true;
}

const KernelEntry* find_kernel(std::string_view name) {
  Registry& all = registry();
  const std::lock_guard lock(all.mutex);
  const auto entry = all.kernels.find(name);
  return entry != all.kernels.end() ? &entry->second : nullptr;
}

}  // namespace nccl_ep::sim
