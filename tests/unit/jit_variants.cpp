// SPDX-License-Identifier: Apache-2.0
// Variants: each has its own name and source, and the key of its binary depends on everything that goes in.
#include "jit/variants.hpp"

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>

#include "jit/build.hpp"
#include "jit/kernels.hpp"
#include "jit/warmup.hpp"
#include "runtime/error.hpp"
#include "shared/ht_args.hpp"
#include "shared/ll_args.hpp"

using namespace nccl_ep;
using namespace nccl_ep::jit;
namespace fs = std::filesystem;

TEST_CASE("jit_variants: names and sources are unique and agree") {
  std::set<std::string> names, sources;
  for (const Groups groups : {Groups::one_team, Groups::masked, Groups::exact}) {
    for (const Variant& variant : all_variants(groups)) {
      CHECK(names.insert(name(variant)).second);
      CHECK(sources.insert(source(variant)).second);
      CHECK(source(variant).find(name(variant) + "(") != std::string::npos);
    }
  }
  CHECK(names.count("ll_dispatch_expert_major") == 1);
  CHECK(names.count("ll_dispatch_expert_major_scaled") == 1);
  CHECK(names.count("ll_combine_rank_major_fp16") == 1);
  CHECK(names.count("ll_combine_rank_major_bf16_scaled") == 1);
  CHECK(names.count("ll_combine_nvfp4_rank_major") == 1);
  CHECK(names.count("ll_combine_nvfp4_expert_major_masked") == 1);
  CHECK(names.count("ht_update_flat") == 1);
  CHECK(names.count("ht_dispatch_expert_major") == 1);
  CHECK(names.count("ht_dispatch_flat_scaled") == 1);
  CHECK(names.count("ht_combine_flat_bf16") == 1);
  CHECK(names.count("ll_dispatch_rank_major_scaled_masked") == 1);
  CHECK(names.count("clean") == 1);
  CHECK(names.count("ll_combine_exact") == 1);
  CHECK(names.count("ht_combine_exact") == 1);
  CHECK(names.count("ll_combine_exact_masked") == 1);
  CHECK(names.count("ht_combine_exact_masked") == 1);
  CHECK(names.count("ht_combine_quantized") == 1);
  CHECK(names.count("ht_combine_quantized_masked") == 1);
  CHECK(names.size() == 27 + 28 + 4);
}

TEST_CASE("jit_variants: groups of several LSA teams have kernels of their own") {
  const std::vector<Variant> inside = variants_of(Algorithm::low_latency);
  const std::vector<Variant> across = variants_of(Algorithm::low_latency, true);
  REQUIRE(across.size() == inside.size());
  for (size_t i = 0; i < across.size(); ++i) CHECK(name(across[i]) == name(inside[i]) + "_remote");
  const std::string text = source({Algorithm::low_latency, Op::combine, Layout::rank_major, DType::fp16, true});
  CHECK(text.find("#include \"ll/combine_remote.cuh\"") == 0);
  CHECK(text.find("ll_combine_rank_major_fp16_remote(const __grid_constant__ LlCombineArgs args)") !=
        std::string::npos);
  CHECK(text.find("ll::combine_remote<Layout::rank_major, DType::fp16>(args)") != std::string::npos);
}

TEST_CASE("jit_variants: all that use the network, and nothing else") {
  std::set<std::string> names;
  for (const Groups groups : {Groups::several_teams, Groups::masked_teams, Groups::exact_teams}) {
    for (const Variant& variant : all_variants(groups)) {
      CHECK(variant.uses_network);
      CHECK(names.insert(name(variant)).second);
    }
  }
  CHECK(names.count("ll_dispatch_expert_major_remote") == 1);
  CHECK(names.count("ll_dispatch_rank_major_scaled_masked_remote") == 1);
  CHECK(names.count("ll_clean_remote") == 1);
  CHECK(names.count("ht_update_flat_remote") == 1);
  CHECK(names.count("ht_dispatch_flat_scaled_remote") == 1);
  CHECK(names.count("ll_combine_nvfp4_expert_major_remote") == 1);
  CHECK(names.count("ll_combine_nvfp4_expert_major_masked_remote") == 1);
  CHECK(names.count("ht_clean_remote") == 1);
  CHECK(names.count("ht_update_flat_masked_remote") == 1);
  CHECK(names.count("ht_combine_quantized_masked_remote") == 1);
  CHECK(names.count("ll_combine_exact_remote") == 1);
  CHECK(names.count("ll_combine_exact_masked_remote") == 1);
  CHECK(names.count("ht_combine_exact_remote") == 1);
  CHECK(names.count("ht_combine_exact_masked_remote") == 1);
  CHECK(names.size() == 27 + 29 + 4);
}

TEST_CASE("jit_variants: every variant has a place of its own among a group's kernels") {
  for (const Algorithm algorithm : {Algorithm::low_latency, Algorithm::high_throughput}) {
    Kernels kernels;
    std::set<runtime::Kernel**> places;
    for (const Variant& variant : variants_of(algorithm)) places.insert(&kernels.at(variant));
    CHECK(places.size() == variants_of(algorithm).size());
    CHECK(places.insert(&kernels.at(exact_combine_variant(algorithm))).second);
  }
}

TEST_CASE("jit_variants: source as NVRTC sees it") {
  const std::string text = source({Algorithm::low_latency, Op::combine, Layout::rank_major, DType::fp16});
  CHECK(text.find("#include \"ll/combine.cuh\"") == 0);
  CHECK(text.find("sizeof(LlCombineArgs) == " + std::to_string(sizeof(LlCombineArgs))) != std::string::npos);
  CHECK(text.find("__launch_bounds__(" + std::to_string(kLlCombineThreads) + ", 1)") != std::string::npos);
  CHECK(text.find("ll::combine<Layout::rank_major, DType::fp16>(args)") != std::string::npos);
  const std::string nvfp4 = source({Algorithm::low_latency, Op::combine_nvfp4, Layout::rank_major, DType::bf16, true});
  CHECK(nvfp4.find("#include \"ll/combine_nvfp4_remote.cuh\"") == 0);
  CHECK(nvfp4.find("ll_combine_nvfp4_rank_major_remote(const __grid_constant__ LlCombineArgs args)") !=
        std::string::npos);
  CHECK(nvfp4.find("ll::combine_nvfp4_remote<Layout::rank_major>(args)") != std::string::npos);
  const Variant scaled{Algorithm::low_latency, Op::dispatch, Layout::rank_major, DType::bf16, true, true};
  CHECK(name(scaled) == "ll_dispatch_rank_major_scaled_remote");
  CHECK(source(scaled).find("ll::dispatch_remote<Layout::rank_major, true>(args)") != std::string::npos);
}

TEST_CASE("jit_variants: High-Throughput source as NVRTC sees it") {
  const std::string combine = source({Algorithm::high_throughput, Op::combine, Layout::expert_major, DType::fp32});
  CHECK(combine.find("#include \"ht/combine.cuh\"") == 0);
  CHECK(combine.find("sizeof(HtCombineArgs) == " + std::to_string(sizeof(HtCombineArgs))) != std::string::npos);
  CHECK(combine.find("__launch_bounds__(" + std::to_string(kHtMoveThreads) + ", 1)") != std::string::npos);
  CHECK(combine.find("ht::combine<true, DType::fp32>(args)") != std::string::npos);
  const std::string update = source({Algorithm::high_throughput, Op::update, Layout::flat, DType::bf16});
  const std::string scaled = source({Algorithm::high_throughput, Op::dispatch, Layout::flat, DType::bf16, false, true});
  CHECK(scaled.find("ht::dispatch<false, true>(args)") != std::string::npos);
  CHECK(update.find("__launch_bounds__(" + std::to_string(kHtUpdateThreads) + ", 1)") != std::string::npos);
  CHECK(update.find("ht_update_flat(const __grid_constant__ HtUpdateArgs args) { ht::update<false>(args); }") !=
        std::string::npos);
}

TEST_CASE("jit_variants: groups with masks have kernels of their own, and clean with the same one") {
  for (const Algorithm algorithm : {Algorithm::low_latency, Algorithm::high_throughput}) {
    const std::vector<Variant> plain = variants_of(algorithm);
    const std::vector<Variant> masked = masked_variants(algorithm);
    REQUIRE(masked.size() == plain.size() + 1);
    for (size_t i = 0; i < plain.size(); ++i) CHECK(name(masked[i]) == name(plain[i]) + "_masked");
    CHECK(name(masked.back()) == "clean");
  }
  const auto call_of = [](const Variant& variant) {
    const std::string text = source(variant);
    const size_t begin = text.rfind("{ ") + 2;
    return text.substr(begin, text.rfind("(args)") - begin);
  };
  constexpr Algorithm kHt = Algorithm::high_throughput;
  CHECK(call_of({kHt, Op::update, Layout::flat, DType::bf16, false, false, true}) ==
        "ht::update<false, Peers::masked_team>");
  CHECK(call_of({kHt, Op::dispatch, Layout::flat, DType::bf16, false, false, true}) ==
        "ht::dispatch<false, false, Peers::masked_team>");
  CHECK(call_of({kHt, Op::combine, Layout::expert_major, DType::fp16, false, false, true}) ==
        "ht::combine<true, DType::fp16, Peers::masked_team>");
  CHECK(call_of({Algorithm::low_latency, Op::combine_nvfp4, Layout::rank_major, DType::bf16, false, false, true}) ==
        "ll::combine_nvfp4<Layout::rank_major, Peers::masked_team>");
  CHECK(call_of({kHt, Op::combine_quantized, Layout::expert_major, DType::bf16, false, false, true}) ==
        "ht::combine_quantized<Peers::masked_team>");
  CHECK(call_of(exact_combine_variant(kHt, false, true)) == "ht::combine_exact_remote");
  CHECK(call_of(exact_combine_variant(kHt, true, true)) == "ht::combine_exact_remote<Peers::masked_teams>");
  CHECK(call_of({kHt, Op::combine_quantized, Layout::expert_major, DType::bf16, true, false, true}) ==
        "ht::combine_quantized_remote<Peers::masked_teams>");
  constexpr Algorithm kLl = Algorithm::low_latency;
  CHECK(call_of(cleaning_variant(kLl, false)) == "nccl_ep::clean");
  CHECK(cleaning_variant(kHt, false) == cleaning_variant(kLl, false));
  CHECK(call_of(cleaning_variant(kLl, true)) == "ll::clean_remote");
  CHECK(call_of(cleaning_variant(kHt, true)) == "ht::clean_remote");
  CHECK(call_of({kHt, Op::update, Layout::flat, DType::bf16, true, false, true}) ==
        "ht::update_remote<false, Peers::masked_teams>");
  CHECK(call_of({kHt, Op::dispatch, Layout::expert_major, DType::bf16, true, true, true}) ==
        "ht::dispatch_remote<true, true, Peers::masked_teams>");
  CHECK(call_of({kLl, Op::dispatch, Layout::rank_major, DType::bf16, true, false, true}) ==
        "ll::dispatch_remote<Layout::rank_major, false, Peers::masked_teams>");
}

TEST_CASE("jit_variants: a binary's key depends on source, templates, architecture and compiler") {
  std::string pattern = (fs::temp_directory_path() / "nccl_ep_test_XXXXXX").string();
  const fs::path folder = mkdtemp(pattern.data());
  std::ofstream(folder / "a.cuh") << "one";
  const CompileJob job{"k", "source", "sm_90a", folder};
  const std::string hash = cache_key(job, "nvrtc 13.0").hash;
  CHECK(hash.size() == 64);
  CHECK(cache_key(job, "nvrtc 13.0").hash == hash);
  CHECK(cache_key(job, "nvrtc 13.1").hash != hash);
  CHECK(cache_key({"k", "Source", "sm_90a", folder}, "nvrtc 13.0").hash != hash);
  CHECK(cache_key({"k", "source", "sm_100a", folder}, "nvrtc 13.0").hash != hash);
  std::ofstream(folder / "a.cuh") << "two";
  CHECK(cache_key(job, "nvrtc 13.0").hash != hash);
  std::ofstream(folder / "a.cuh") << "one";
  CHECK(cache_key(job, "nvrtc 13.0").hash == hash);
  fs::rename(folder / "a.cuh", folder / "b.cuh");
  CHECK(cache_key(job, "nvrtc 13.0").hash != hash);
  fs::remove_all(folder);
}

TEST_CASE("jit_variants: missing templates are named") {
  try {
    cache_key({"k", "source", "sm_90a", "/nonexistent/templates"}, "nvrtc 13.0");
    FAIL("missing templates went unnoticed");
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find("/nonexistent/templates") != std::string::npos);
    CHECK(std::string(error.what()).find("NCCL_EP_TEMPLATE_DIR") != std::string::npos);
  }
}

TEST_CASE("jit_variants: lists of architectures") {
  CHECK(parse_archs("sm_90a") == std::vector<std::string>{"sm_90a"});
  CHECK(parse_archs("sm_90a,sm_100a,sm_120a") == std::vector<std::string>{"sm_90a", "sm_100a", "sm_120a"});
  for (const char* wrong : {"", "sm_90", "90a", "sm_a", "sm_90a,,sm_100a", "hopper", "sm_90a sm_100a"}) {
    CAPTURE(wrong);
    CHECK_THROWS_AS(parse_archs(wrong), Error);
  }
}
