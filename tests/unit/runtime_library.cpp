// SPDX-License-Identifier: Apache-2.0
// Finding shared libraries: loaded ones first, then wheels beside us, then the system's; failures say what
// was tried.
#include "runtime/library.hpp"

#include <dlfcn.h>
#include <doctest/doctest.h>

#include <filesystem>

#include "runtime/cuda/device.hpp"
#include "runtime/cuda/nccl_api.hpp"
#include "runtime/error.hpp"

using namespace nccl_ep;
using namespace nccl_ep::runtime;
namespace fs = std::filesystem;

namespace {

// A library that every Linux has and that no program links.
const LibraryQuery kThreadDb{"the thread library", {"libthread_db.so.1"}, {}, "td_init", "install it"};

}  // namespace

TEST_CASE("runtime_library: a missing library is named with the remedy and all that was tried") {
  try {
    Library::open({"Fantasy", {"libfantasy.so.2", "libfantasy.so.1"}, {}, "fantasy_init", "pip install fantasy"});
    FAIL("found a library that does not exist");
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(error.code() == ncclSystemError);
    CHECK(message.find("Fantasy was not found: pip install fantasy") == 0);
    CHECK(message.find("libfantasy.so.2") != std::string::npos);
    CHECK(message.find("libfantasy.so.1") != std::string::npos);
  }
}

TEST_CASE("runtime_library: what the process has loaded comes first") {
  const Library c = Library::open({"C", {"libc.so.6"}, {}, "gnu_get_libc_version", ""});
  CHECK(c.was_loaded());
  const Library by_symbol = Library::open({"C", {"libfantasy.so.1"}, {}, "gnu_get_libc_version", ""});
  CHECK(by_symbol.was_loaded());
  CHECK(by_symbol.path() == c.path());
}

TEST_CASE("runtime_library: a wheel beside us comes before the system") {
  const Library system = Library::open(kThreadDb);
  const fs::path folder = fs::path(own_folder()) / "nvidia" / "fantasy" / "lib";
  fs::create_directories(folder);
  const fs::path file = folder / "libfantasy_db.so.1";
  fs::copy_file(system.path(), file, fs::copy_options::overwrite_existing);
  const Library wheel =
      Library::open({"Fantasy", {"libfantasy_db.so.1"}, {"nvidia/fantasy/lib"}, "td_init", "install it"});
  CHECK_FALSE(wheel.was_loaded());
  CHECK(wheel.path() == file.string());
  fs::remove_all(fs::path(own_folder()) / "nvidia");
}

TEST_CASE("runtime_library: a missing function means that the library is too old") {
  const Library library = Library::open(kThreadDb);
  void (*function)() = nullptr;
  library.bind(function, "td_init");
  CHECK(static_cast<bool>(function));
  CHECK_THROWS_WITH_AS(library.bind(function, "td_fantasy"),
                       ("the thread library (" + library.path() + ") has no td_fantasy: it is too old").c_str(), Error);
}

TEST_CASE("runtime_library: an NCCL that is too old, and who loaded it") {
  const std::string mine = cuda::old_nccl_message(22705, "/lib/libnccl.so.2", false, cuda::kMinNccl);
  CHECK(mine.find("NCCL is 2.27.5 (/lib/libnccl.so.2), expected 2.29.7 or later") == 0);
  CHECK(mine.find("PyTorch") == std::string::npos);
  const std::string theirs = cuda::old_nccl_message(22809, "/torch/libnccl.so.2", true, cuda::kMinNccl);
  CHECK(theirs.find("PyTorch") != std::string::npos);
  CHECK(theirs.find("LD_PRELOAD") != std::string::npos);
}

TEST_CASE("runtime_library: architectures by compute capability") {
  CHECK(cuda::arch_name(9, 0) == "sm_90a");
  CHECK(cuda::arch_name(10, 3) == "sm_103a");
  CHECK(cuda::arch_name(12, 0) == "sm_120a");
  CHECK_THROWS_AS(cuda::arch_name(8, 9), Error);
}
