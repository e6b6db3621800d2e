// SPDX-License-Identifier: Apache-2.0
// The kernel cache: entries are whole, private and verified; a failed compile leaves nothing; equal work is
// done once.
#include "jit/cache.hpp"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <fstream>
#include <thread>
#include <vector>

#include "jit/build.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::jit;
namespace fs = std::filesystem;

namespace {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (fs::temp_directory_path() / "nccl_ep_test_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  operator fs::path() const { return path_; }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

const CacheKey kKey{"ll_dispatch_rank_major", "sm_90a", "0123abcd"};

mode_t mode_of(const fs::path& path) {
  struct stat info{};
  REQUIRE(stat(path.c_str(), &info) == 0);
  return info.st_mode & 0777;
}

size_t files_in(const fs::path& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
}

}  // namespace

TEST_CASE("jit_cache: creates its folders for this user alone") {
  const TemporaryFolder folder;
  const Cache cache(folder / "a" / "b");
  CHECK(mode_of(folder / "a") == 0700);
  CHECK(mode_of(folder / "a" / "b") == 0700);
  cache.store(kKey, "binary");
  CHECK(mode_of(cache.file(kKey)) == 0600);
}

TEST_CASE("jit_cache: refuses a folder that others may write to, and says what to do") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "shared");
  REQUIRE(chmod((folder / "shared").c_str(), 0770) == 0);
  try {
    const Cache cache(folder / "shared");
    FAIL("a shared folder was accepted");
  } catch (const Error& error) {
    CHECK(error.code() == ncclSystemError);
    CHECK(std::string(error.what()).find("chmod 700") != std::string::npos);
  }
}

TEST_CASE("jit_cache: refuses a file in the folder's place") {
  const TemporaryFolder folder;
  std::ofstream(folder / "file") << "x";
  CHECK_THROWS_AS(Cache(folder / "file"), Error);
}

TEST_CASE("jit_cache: gives back what was stored, under its own key only") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  const std::string binary(
      "\x7f"
      "ELF\0\1\2",
      7);
  cache.store(kKey, binary);
  CHECK(cache.find(kKey) == binary);
  CHECK_FALSE(cache.find({kKey.name, kKey.arch, "another"}));
  REQUIRE(cache.entries().size() == 1);
  CHECK(cache.entries()[0].key.name == kKey.name);
  CHECK(cache.entries()[0].key.arch == kKey.arch);
  CHECK(cache.entries()[0].key.hash == kKey.hash);
  CHECK(cache.entries()[0].bytes == binary.size());
  CHECK(files_in(folder) == 1);  // no temporary file stays behind
  CHECK(cache.clear() == 1);
  CHECK_FALSE(cache.find(kKey));
}

TEST_CASE("jit_cache: a damaged entry is compiled again") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  cache.store(kKey, "a binary of some length");
  SUBCASE("cut short") { fs::resize_file(cache.file(kKey), 30); }
  SUBCASE("empty") { fs::resize_file(cache.file(kKey), 0); }
  SUBCASE("changed") { std::fstream(cache.file(kKey), std::ios::in | std::ios::out) << "A"; }
  CHECK_FALSE(cache.find(kKey));
  const Build built = find_or_compile(cache, kKey, [] { return std::string("fresh"); });
  CHECK_FALSE(built.was_cached);
  CHECK(cache.find(kKey) == "fresh");
}

TEST_CASE("jit_cache: an entry that is cut short is not listed, and cleared") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  cache.store(kKey, "binary");
  fs::resize_file(cache.file(kKey), 30);
  CHECK(cache.entries().empty());
  CHECK(cache.clear() == 1);
  CHECK(files_in(folder) == 0);
}

TEST_CASE("jit_cache: listing and clearing while others clear") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  const auto hash = [](int i) { return "hash" + std::to_string(i); };
  std::atomic<bool> stop = false;
  std::thread other([&] {
    while (!stop) {
      for (int i = 0; i < 50; ++i) cache.store({kKey.name, kKey.arch, hash(i)}, "binary");
      cache.clear();
    }
  });
  for (int i = 0; i < 200; ++i) {
    for (const CacheEntry& entry : cache.entries()) CHECK(entry.bytes == 6);
    cache.clear();
  }
  stop = true;
  other.join();
}

TEST_CASE("jit_cache: clearing removes what killed processes left, and nothing that is in use") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  const std::string entry = cache.file(kKey).string();
  std::ofstream(entry + ".lock") << "";
  std::ofstream(entry + ".a1B2c3") << "half a bina";
  std::ofstream(folder / "notes.lock") << "the user's own";
  CHECK(cache.clear() == 0);
  CHECK(files_in(folder) == 1);

  const Cache::Lock lock(cache, kKey);
  CHECK(cache.clear() == 0);
  CHECK(fs::exists(entry + ".lock"));
}

TEST_CASE("jit_cache: a failed compile is reported and not remembered") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  const auto refuse = []() -> std::string { throw Error(ncclInternalError, "does not compile"); };
  CHECK_THROWS_AS(find_or_compile(cache, kKey, refuse), Error);
  CHECK(files_in(folder) == 0);
  const Build built = find_or_compile(cache, kKey, [] { return std::string("repaired"); });
  CHECK(built.binary == "repaired");
  CHECK_FALSE(built.was_cached);
}

TEST_CASE("jit_cache: many at once compile once") {
  const TemporaryFolder folder;
  std::atomic<int> compiles = 0;
  const auto compile_slowly = [&] {
    ++compiles;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    return std::string(1 << 20, 'b');
  };
  std::vector<std::thread> threads;
  std::atomic<int> right = 0;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const Cache cache(folder);
      right += find_or_compile(cache, kKey, compile_slowly).binary == std::string(1 << 20, 'b');
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(right == 8);
  CHECK(compiles == 1);
  CHECK(files_in(folder) == 1);
}

TEST_CASE("jit_cache: a reader never sees half an entry") {
  const TemporaryFolder folder;
  const Cache cache(folder);
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 0; i < 200; ++i) cache.store(kKey, std::string(100000, static_cast<char>('a' + i % 2)));
    stop = true;
  });
  int misses = 0;
  while (!cache.find(kKey) && !stop) std::this_thread::yield();
  while (!stop) misses += !cache.find(kKey);
  writer.join();
  CHECK(misses == 0);
}

TEST_CASE("jit_cache: a binary that cannot be kept is still used") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "gone");
  REQUIRE(chmod((folder / "gone").c_str(), 0700) == 0);
  const Cache cache(folder / "gone");
  fs::remove_all(folder / "gone");
  const Build built = find_or_compile(cache, kKey, [] { return std::string("binary"); });
  CHECK(built.binary == "binary");
  CHECK(built.store_error.find("cannot create") != std::string::npos);
}
