// SPDX-License-Identifier: Apache-2.0
#include "jit/variants.hpp"

#include "shared/ht_args.hpp"
#include "shared/ll_args.hpp"

namespace nccl_ep::jit {
namespace {

struct AlgorithmText {
  const char* folder;       // of templates
  const char* scope;        // of the kernels' functions
  const char* prefix;       // of kernels' names
  const char* args_prefix;  // "Ll" of LlDispatchArgs
};

// What cleans masks inside an LSA team is neither algorithm's.
AlgorithmText text_of(const Variant& variant) {
  if (variant.op == Op::clean && !variant.uses_network) return {"common", "nccl_ep::", "", ""};
  if (variant.algorithm == Algorithm::low_latency) return {"ll", "ll::", "ll_", "Ll"};
  return {"ht", "ht::", "ht_", "Ht"};
}

struct OpText {
  const char* name;
  const char* args_suffix;
};

OpText text_of(Op op) {
  switch (op) {
    case Op::update: return {"update", "UpdateArgs"};
    case Op::dispatch: return {"dispatch", "DispatchArgs"};
    case Op::combine: return {"combine", "CombineArgs"};
    case Op::combine_exact: return {"combine_exact", "CombineArgs"};
    case Op::combine_quantized: return {"combine_quantized", "CombineArgs"};
    case Op::combine_nvfp4: return {"combine_nvfp4", "CombineArgs"};
    case Op::clean: return {"clean", "CleanArgs"};
  }
  return {};
}

std::string layout_name(Layout layout) {
  switch (layout) {
    case Layout::expert_major: return "expert_major";
    case Layout::rank_major: return "rank_major";
    case Layout::flat: return "flat";
  }
  return {};
}

std::string dtype_name(DType dtype) {
  switch (dtype) {
    case DType::bf16: return "bf16";
    case DType::fp16: return "fp16";
    case DType::fp32: return "fp32";
  }
  return {};
}

size_t args_bytes(const Variant& variant) {
  const bool is_ll = variant.algorithm == Algorithm::low_latency;
  switch (variant.op) {
    case Op::update: return sizeof(HtUpdateArgs);
    case Op::dispatch: return is_ll ? sizeof(LlDispatchArgs) : sizeof(HtDispatchArgs);
    case Op::combine:
    case Op::combine_exact:
    case Op::combine_nvfp4:
    case Op::combine_quantized: return is_ll ? sizeof(LlCombineArgs) : sizeof(HtCombineArgs);
    case Op::clean:
      if (!variant.uses_network) return sizeof(CleanArgs);
      return is_ll ? sizeof(LlCleanArgs) : sizeof(HtCleanArgs);
  }
  return 0;
}

// Whether kernels of the operation come for rows with scales, too.
bool may_be_scaled(const Variant& variant) {
  return variant.op == Op::dispatch || (variant.op == Op::combine && variant.algorithm == Algorithm::low_latency);
}

// Not compiled for a layout, or there is only one.
bool is_plain(Op op) { return op == Op::combine_exact || op == Op::combine_quantized || op == Op::clean; }

// Low-Latency kernels take their layout, whether rows have scales, and whom they deal with; High-Throughput ones take whether
// the layout is expert-major, dispatch whether rows have scales, and whom they deal with.
std::string template_parameters(const Variant& variant) {
  const std::string peers = variant.uses_network ? "Peers::masked_teams" : "Peers::masked_team";
  if (is_plain(variant.op)) return variant.masked && variant.op != Op::clean ? "<" + peers + ">" : "";
  const std::string layout = variant.algorithm == Algorithm::low_latency ? "Layout::" + layout_name(variant.layout)
                             : variant.layout == Layout::expert_major    ? "true"
                                                                         : "false";
  const std::string dtype = variant.op == Op::combine ? ", DType::" + dtype_name(variant.dtype) : "";
  const std::string scaled = variant.scaled ? ", true" : variant.masked && may_be_scaled(variant) ? ", false" : "";
  return "<" + layout + dtype + scaled + (variant.masked ? ", " + peers + ">" : ">");
}

}  // namespace

std::string name(const Variant& variant) {
  const std::string function = std::string(text_of(variant).prefix) + text_of(variant.op).name;
  const std::string masked = variant.masked && variant.op != Op::clean ? "_masked" : "";
  const std::string end = masked + (variant.uses_network ? "_remote" : "");
  if (is_plain(variant.op)) return function + end;
  const std::string stem = function + "_" + layout_name(variant.layout);
  return (variant.op == Op::combine ? stem + "_" + dtype_name(variant.dtype) : stem) +
         (variant.scaled ? "_scaled" : "") + end;
}

uint32_t max_threads(const Variant& variant) {
  if (variant.op == Op::clean) return kCleanThreads;
  if (variant.algorithm == Algorithm::low_latency) {
    return variant.op == Op::dispatch ? ll_dispatch_threads(variant.uses_network)
                                      : ll_combine_threads(variant.uses_network);
  }
  return variant.op == Op::update ? ht_update_threads(variant.uses_network)
                                  : ht_move_threads(variant.uses_network, variant.masked);
}

std::string source(const Variant& variant) {
  const AlgorithmText algorithm = text_of(variant);
  const OpText op = text_of(variant.op);
  const std::string folder = algorithm.folder;
  const std::string function = std::string(op.name) + (variant.uses_network ? "_remote" : "");
  const std::string args = std::string(algorithm.args_prefix) + op.args_suffix;
  const std::string bounds = std::to_string(max_threads(variant)) + ", 1";
  return "#include \"" + folder + "/" + function + ".cuh\"\n" +  //
         "using namespace nccl_ep;\n" + "static_assert(sizeof(" + args + ") == " + std::to_string(args_bytes(variant)) +
         ", \"host and device disagree\");\n" + "extern \"C\" __global__ void __launch_bounds__(" + bounds + ")\n" +  //
         name(variant) + "(const __grid_constant__ " + args + " args) { " + algorithm.scope + function +
         template_parameters(variant) + "(args); }\n";
}

std::vector<Variant> variants_of(Algorithm algorithm, bool uses_network) {
  const bool is_ll = algorithm == Algorithm::low_latency;
  std::vector<Variant> variants;
  for (const Layout layout : {Layout::expert_major, is_ll ? Layout::rank_major : Layout::flat}) {
    if (!is_ll) variants.push_back({algorithm, Op::update, layout, DType::bf16, uses_network});
    variants.push_back({algorithm, Op::dispatch, layout, DType::bf16, uses_network});
    variants.push_back({algorithm, Op::dispatch, layout, DType::bf16, uses_network, true});
    for (const DType dtype : {DType::bf16, DType::fp16, DType::fp32}) {
      variants.push_back({algorithm, Op::combine, layout, dtype, uses_network});
    }
    if (is_ll) {
      variants.push_back({algorithm, Op::combine, layout, DType::bf16, uses_network, true});
      variants.push_back({algorithm, Op::combine_nvfp4, layout, DType::bf16, uses_network});
    }
  }
  if (!is_ll) variants.push_back(quantized_combine_variant(uses_network));
  return variants;
}

std::vector<Variant> masked_variants(Algorithm algorithm, bool uses_network) {
  std::vector<Variant> variants = variants_of(algorithm, uses_network);
  for (Variant& variant : variants) variant.masked = true;
  variants.push_back(cleaning_variant(algorithm, uses_network));
  return variants;
}

Variant cleaning_variant(Algorithm algorithm, bool uses_network) {
  if (!uses_network) algorithm = Algorithm::low_latency;  // neither's
  return {algorithm, Op::clean, Layout::expert_major, DType::bf16, uses_network, false, true};
}

Variant quantized_combine_variant(bool uses_network) {
  return {Algorithm::high_throughput, Op::combine_quantized, Layout::expert_major, DType::bf16, uses_network};
}

std::vector<Variant> exact_variants(Algorithm algorithm, bool masked, bool uses_network) {
  std::vector<Variant> variants;
  for (const Variant& variant :
       masked ? masked_variants(algorithm, uses_network) : variants_of(algorithm, uses_network)) {
    const bool combines =
        variant.op == Op::combine || variant.op == Op::combine_quantized || variant.op == Op::combine_nvfp4;
    if (variant.layout == Layout::expert_major && !combines) variants.push_back(variant);
  }
  variants.push_back(exact_combine_variant(algorithm, masked, uses_network));
  return variants;
}

Variant exact_combine_variant(Algorithm algorithm, bool masked, bool uses_network) {
  return {algorithm, Op::combine_exact, Layout::expert_major, DType::bf16, uses_network, false, masked};
}

bool uses_network(Groups groups) {
  return groups == Groups::several_teams || groups == Groups::masked_teams || groups == Groups::exact_teams;
}

std::vector<Variant> all_variants(Groups groups) {
  if (groups == Groups::exact) {
    return {exact_combine_variant(Algorithm::low_latency), exact_combine_variant(Algorithm::high_throughput),
            exact_combine_variant(Algorithm::low_latency, true),
            exact_combine_variant(Algorithm::high_throughput, true)};
  }
  if (groups == Groups::exact_teams) {
    return {exact_combine_variant(Algorithm::low_latency, false, true),
            exact_combine_variant(Algorithm::high_throughput, false, true),
            exact_combine_variant(Algorithm::low_latency, true, true),
            exact_combine_variant(Algorithm::high_throughput, true, true)};
  }
  const auto of = [&](Algorithm algorithm) {
    const bool masked = groups == Groups::masked || groups == Groups::masked_teams;
    return masked ? masked_variants(algorithm, uses_network(groups)) : variants_of(algorithm, uses_network(groups));
  };
  std::vector<Variant> variants = of(Algorithm::low_latency);
  if (groups == Groups::masked) variants.pop_back();  // what cleans a mask: both algorithms have it
  for (const Variant& variant : of(Algorithm::high_throughput)) variants.push_back(variant);
  return variants;
}

}  // namespace nccl_ep::jit
