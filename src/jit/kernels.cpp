// SPDX-License-Identifier: Apache-2.0
#include "jit/kernels.hpp"

#include <future>
#include <utility>
#include <vector>

#include "jit/build.hpp"
#include "jit/header_folders.hpp"

namespace nccl_ep::jit {

namespace {

// What NCCL gives to kernels at run time is laid out as its own headers say.
void require_matching_headers(const Variant& variant, const Settings& settings) {
  if (variant.uses_network) require_loaded_nccl(find_nccl_headers(settings));
}

}  // namespace

runtime::Kernel* get_kernel(runtime::Device& device, const Variant& variant) {
  if (runtime::Kernel* builtin = device.builtin_kernel(name(variant))) return builtin;
  const Settings settings = read_settings();
  require_matching_headers(variant, settings);
  return device.load_kernel(build(variant, device.limits().arch, settings).binary, name(variant));
}

Kernels load_kernels(runtime::Device& device, const std::vector<Variant>& variants) {
  Kernels kernels;
  std::vector<std::pair<Variant, std::future<Build>>> builds;
  const Settings settings = read_settings();
  const std::string arch = device.limits().arch;
  for (const Variant& variant : variants) {
    kernels.at(variant) = device.builtin_kernel(name(variant));
    if (kernels.at(variant) != nullptr) continue;
    require_matching_headers(variant, settings);
    builds.emplace_back(variant, std::async(std::launch::async, build, variant, arch, settings));
  }
  for (auto& [variant, built] : builds) {
    kernels.at(variant) = device.load_kernel(built.get().binary, name(variant));
  }
  return kernels;
}

}  // namespace nccl_ep::jit
