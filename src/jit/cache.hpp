// SPDX-License-Identifier: Apache-2.0
// A folder of compiled kernels, each named by a hash of everything it was made from. Any number of threads
// and processes share it: entries appear whole or not at all, never change, and are verified when read.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nccl_ep::jit {

// An entry's file is <name>.<arch>.<hash>.cubin.
struct CacheKey {
  std::string name;  // "ll_dispatch_rank_major"
  std::string arch;  // "sm_90a"
  std::string hash;  // SHA-256 of all inputs
};

struct CacheEntry {
  CacheKey key;
  size_t bytes;  // of the binary
};

class Cache {
 public:
  // Creates the folder with mode 0700. Throws Error(ncclSystemError) when that fails, or when others may
  // write there: what the cache holds runs with this user's rights.
  explicit Cache(std::filesystem::path folder);

  std::filesystem::path file(const CacheKey& key) const;

  // Nothing when the key is unknown or its entry is damaged.
  std::optional<std::string> find(const CacheKey& key) const;
  // Throws Error(ncclSystemError).
  void store(const CacheKey& key, std::string_view binary) const;

  // Sorted by name. Without those that are cut short: to find(), these are missing.
  std::vector<CacheEntry> entries() const;
  // Removes all entries and returns how many there were, and what killed processes left beside them.
  size_t clear() const;

  // Held while a key is being compiled, so that other threads and processes wait for the result instead of
  // repeating the work. Where the file system has no locks, they repeat it.
  class Lock {
   public:
    Lock(const Cache& cache, const CacheKey& key);
    ~Lock();
    Lock(const Lock&) = delete;
    Lock& operator=(const Lock&) = delete;

   private:
    std::filesystem::path file_;
    int descriptor_;
  };

 private:
  std::filesystem::path folder_;
};

}  // namespace nccl_ep::jit
