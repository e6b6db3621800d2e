// SPDX-License-Identifier: Apache-2.0
// Kernels by variant: from the device when it has them built in, else from the cache, else compiled.
#pragma once

#include "jit/variants.hpp"
#include "runtime/runtime.hpp"

namespace nccl_ep::jit {

// Throws Error with the compiler's log when a variant does not compile.
runtime::Kernel* get_kernel(runtime::Device& device, const LlVariant& variant);

// All of a group's Low-Latency kernels, so that launching one costs no look-up.
struct LlKernels {
  runtime::Kernel* dispatch[2];    // [layout]
  runtime::Kernel* combine[2][3];  // [layout][dtype]

  runtime::Kernel*& at(const LlVariant& variant) {
    const auto layout = static_cast<uint32_t>(variant.layout) - static_cast<uint32_t>(Layout::expert_major);
    return variant.op == LlOp::dispatch ? dispatch[layout] : combine[layout][static_cast<uint32_t>(variant.dtype)];
  }
};

// Variants that are not in the cache yet are compiled side by side.
LlKernels load_ll_kernels(runtime::Device& device);

}  // namespace nccl_ep::jit
