// SPDX-License-Identifier: Apache-2.0
// Which kernels exist. A variant is a few integers; its name finds it in the cache, on the device, and among
// the simulator's built-in kernels; its source is what NVRTC compiles.
#pragma once

#include <string>
#include <vector>

#include "shared/group_state.hpp"

namespace nccl_ep::jit {

enum class Algorithm { low_latency, high_throughput };
enum class Op { update, dispatch, combine, combine_exact, combine_quantized, combine_nvfp4, clean };
constexpr size_t kNumOps = 7;

struct Variant {
  Algorithm algorithm;
  Op op;
  Layout layout;
  DType dtype;                // of combine's rows; the others move bytes and are always compiled for bf16
  bool uses_network = false;  // for groups of several LSA teams; includes device/gin.hpp, and so NCCL's device headers
  bool scaled = false;        // rows have scales
  bool masked = false;        // for groups with masks

  bool operator==(const Variant&) const = default;
};

// "ll_combine_rank_major_fp16", "ht_update_flat", "ll_dispatch_rank_major_scaled_remote", "clean": combine alone has a
// dtype in its name, and kernels that are not compiled for a layout have neither.
std::string name(const Variant& variant);
std::string source(const Variant& variant);
// The widest block that a plan may launch. Kernels are compiled for one such block an SM.
uint32_t max_threads(const Variant& variant);
// All that a group of this algorithm needs, inside one LSA team or across several.
std::vector<Variant> variants_of(Algorithm algorithm, bool uses_network = false);
// The same for a group with masks, of which one cleans its mask: inside one LSA team the same for both algorithms.
std::vector<Variant> masked_variants(Algorithm algorithm, bool uses_network = false);
Variant cleaning_variant(Algorithm algorithm, bool uses_network);
// The same for a group with exact_combine, which has expert-major handles; one of them is such groups' alone.
std::vector<Variant> exact_variants(Algorithm algorithm, bool masked, bool uses_network = false);
Variant exact_combine_variant(Algorithm algorithm, bool masked = false, bool uses_network = false);
// Of High Throughput: combine with NCCL_EP_COMB_QUANT_FP8.
Variant quantized_combine_variant(bool uses_network = false);
// Which groups of all algorithms kernels are for.
enum class Groups { one_team, several_teams, masked, exact, masked_teams, exact_teams };
bool uses_network(Groups groups);
std::vector<Variant> all_variants(Groups groups);

}  // namespace nccl_ep::jit
