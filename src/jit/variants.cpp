// SPDX-License-Identifier: Apache-2.0
#include "jit/variants.hpp"

namespace nccl_ep::jit {
namespace {

std::string op_name(LlOp op) { return op == LlOp::dispatch ? "dispatch" : "combine"; }

std::string layout_name(Layout layout) { return layout == Layout::expert_major ? "expert_major" : "rank_major"; }

std::string dtype_name(DType dtype) {
  switch (dtype) {
    case DType::bf16: return "bf16";
    case DType::fp16: return "fp16";
    case DType::fp32: return "fp32";
  }
  return {};
}

}  // namespace

std::string name(const LlVariant& variant) {
  const std::string stem = "ll_" + op_name(variant.op) + "_" + layout_name(variant.layout);
  return variant.op == LlOp::dispatch ? stem : stem + "_" + dtype_name(variant.dtype);
}

uint32_t max_threads(const LlVariant& variant) {
  return variant.op == LlOp::dispatch ? kLlDispatchThreads : kLlCombineThreads;
}

std::string source(const LlVariant& variant) {
  const bool is_dispatch = variant.op == LlOp::dispatch;
  const std::string op = op_name(variant.op);
  const std::string args = is_dispatch ? "LlDispatchArgs" : "LlCombineArgs";
  const std::string args_bytes = std::to_string(is_dispatch ? sizeof(LlDispatchArgs) : sizeof(LlCombineArgs));
  const std::string bounds = std::to_string(max_threads(variant)) + ", 1";
  const std::string layout = "Layout::" + layout_name(variant.layout);
  const std::string parameters = is_dispatch ? layout : layout + ", DType::" + dtype_name(variant.dtype);
  return "#include \"ll/" + op + ".cuh\"\n" +  //
         "using namespace nccl_ep;\n" + "static_assert(sizeof(" + args + ") == " + args_bytes +
         ", \"host and device disagree\");\n" + "extern \"C\" __global__ void __launch_bounds__(" + bounds + ")\n" +  //
         name(variant) + "(const __grid_constant__ " + args + " args) { ll::" + op + "<" + parameters + ">(args); }\n";
}

std::vector<LlVariant> all_ll_variants() {
  std::vector<LlVariant> variants;
  for (const Layout layout : {Layout::expert_major, Layout::rank_major}) {
    variants.push_back({LlOp::dispatch, layout, DType::bf16});
    for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32}) {
      variants.push_back({LlOp::combine, layout, dtype});
    }
  }
  return variants;
}

}  // namespace nccl_ep::jit
