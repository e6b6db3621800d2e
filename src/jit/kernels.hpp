// SPDX-License-Identifier: Apache-2.0
// Kernels by variant: from the device when it has them built in, else from the cache, else compiled.
#pragma once

#include "jit/variants.hpp"
#include "runtime/runtime.hpp"

namespace nccl_ep::jit {

// All of a group's kernels, so that launching one costs no look-up.
class Kernels {
 public:
  // An algorithm has the expert-major layout and one other.
  runtime::Kernel*& at(Op op, Layout layout, DType dtype = DType::bf16, bool scaled = false) {
    return kernels_[static_cast<uint32_t>(op)][layout == Layout::expert_major][static_cast<uint32_t>(dtype)][scaled];
  }
  runtime::Kernel*& at(const Variant& variant) { return at(variant.op, variant.layout, variant.dtype, variant.scaled); }

 private:
  runtime::Kernel* kernels_[kNumOps][2][3][2] = {};  // [operation][is expert-major][dtype][scaled]
};

// Variants that are not in the cache yet are compiled side by side. Throws Error with the compiler's log when one does not
// compile.
Kernels load_kernels(runtime::Device& device, const std::vector<Variant>& variants);

}  // namespace nccl_ep::jit
