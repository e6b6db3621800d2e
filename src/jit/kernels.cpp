// SPDX-License-Identifier: Apache-2.0
#include "jit/kernels.hpp"

#include <future>
#include <utility>
#include <vector>

#include "jit/build.hpp"

namespace nccl_ep::jit {

runtime::Kernel* get_kernel(runtime::Device& device, const Variant& variant) {
  if (runtime::Kernel* builtin = device.builtin_kernel(name(variant))) return builtin;
  return device.load_kernel(build(variant, device.limits().arch, read_settings()).binary, name(variant));
}

Kernels load_kernels(runtime::Device& device, const std::vector<Variant>& variants) {
  Kernels kernels;
  std::vector<std::pair<Variant, std::future<Build>>> builds;
  const Settings settings = read_settings();
  const std::string arch = device.limits().arch;
  for (const Variant& variant : variants) {
    kernels.at(variant) = device.builtin_kernel(name(variant));
    if (kernels.at(variant) != nullptr) continue;
    builds.emplace_back(variant, std::async(std::launch::async, build, variant, arch, settings));
  }
  for (auto& [variant, built] : builds) {
    kernels.at(variant) = device.load_kernel(built.get().binary, name(variant));
  }
  return kernels;
}

}  // namespace nccl_ep::jit
