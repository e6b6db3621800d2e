// SPDX-License-Identifier: Apache-2.0
// Which kernels exist. A variant is a few integers; its name finds it in the cache, on the device, and among
// the simulator's built-in kernels; its source is what NVRTC compiles.
#pragma once

#include <string>
#include <vector>

#include "shared/ll_args.hpp"

namespace nccl_ep::jit {

enum class LlOp { dispatch, combine };

struct LlVariant {
  LlOp op;
  Layout layout;
  DType dtype;  // of combine's rows; dispatch moves bytes and is always compiled for bf16

  bool operator==(const LlVariant&) const = default;
};

// "ll_combine_rank_major_fp16"; dispatch has no dtype in its name.
std::string name(const LlVariant& variant);
std::string source(const LlVariant& variant);
// The widest block that a plan may launch. Kernels are compiled for one such block an SM.
uint32_t max_threads(const LlVariant& variant);
std::vector<LlVariant> all_ll_variants();

}  // namespace nccl_ep::jit
