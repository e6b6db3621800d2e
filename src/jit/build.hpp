// SPDX-License-Identifier: Apache-2.0
// A variant's binary: from the cache, or compiled and put there.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "jit/cache.hpp"
#include "jit/compiler.hpp"
#include "jit/network_headers.hpp"
#include "jit/settings.hpp"
#include "jit/variants.hpp"

namespace nccl_ep::jit {

struct Build {
  std::string binary;
  bool was_cached;
  std::string file;         // where it is kept; empty when it is not
  std::string store_error;  // why a binary that works could not be kept, if so
};

// What the builds of several variants have in common.
struct BuildInputs {
  Settings settings;
  std::optional<NetworkHeaders> network;  // needed if a variant uses the network

  // Throws Error(ncclSystemError) that names what is missing, if the network is used.
  static BuildInputs read(bool uses_network);
};

// A failed compile leaves nothing behind, so the next call tries again.
Build build(const Variant& variant, const std::string& arch, const BuildInputs& inputs);

// The same with any cache and compiler; what the unit tests drive.
Build find_or_compile(const Cache& cache, const CacheKey& key, const std::function<std::string()>& compile_binary);

// SHA-256 over the source, all templates, the architecture and the compiler.
CacheKey cache_key(const CompileJob& job, const std::string& compiler);

// The user's cache, for looking after it. Throws Error(ncclSystemError) when there can be none.
Cache user_cache(const Settings& settings);

}  // namespace nccl_ep::jit
