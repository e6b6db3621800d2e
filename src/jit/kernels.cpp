// SPDX-License-Identifier: Apache-2.0
#include "jit/kernels.hpp"

#include <algorithm>
#include <functional>
#include <future>
#include <string>
#include <vector>

#include "jit/build.hpp"
#include "jit/header_folders.hpp"

namespace nccl_ep::jit {

Kernels load_kernels(runtime::Device& device, const std::vector<Variant>& variants) {
  Kernels kernels;
  std::vector<Variant> missing;
  for (const Variant& variant : variants) {
    kernels.at(variant) = device.builtin_kernel(name(variant));
    if (kernels.at(variant) == nullptr) missing.push_back(variant);
  }
  if (missing.empty()) return kernels;
  const auto uses_network = [](const Variant& variant) { return variant.uses_network; };
  const BuildInputs inputs = BuildInputs::read(std::any_of(missing.begin(), missing.end(), uses_network));
  // What NCCL gives to kernels at run time is laid out as its own headers say.
  if (inputs.network) require_loaded_nccl(inputs.network->nccl);
  const std::string arch = device.limits().arch;
  std::vector<std::future<Build>> builds;
  for (const Variant& variant : missing) {
    builds.push_back(std::async(std::launch::async, build, variant, arch, std::cref(inputs)));
  }
  for (size_t i = 0; i < missing.size(); ++i) {
    kernels.at(missing[i]) = device.load_kernel(builds[i].get().binary, name(missing[i]));
  }
  return kernels;
}

}  // namespace nccl_ep::jit
