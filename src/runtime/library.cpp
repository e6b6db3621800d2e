// SPDX-License-Identifier: Apache-2.0
#include "runtime/library.hpp"

#include <dlfcn.h>

#include <filesystem>

#include "runtime/error.hpp"

namespace nccl_ep::runtime {
namespace {

namespace fs = std::filesystem;

// Where a wheel that is installed next to ours would have put the library.
std::vector<std::string> wheel_files(const LibraryQuery& query) {
  std::vector<std::string> files;
  for (const std::string& folder : parents(own_folder())) {
    for (const std::string& wheel : query.wheel_folders) {
      for (const std::string& soname : query.sonames) {
        const fs::path file = fs::path(folder) / wheel / soname;
        std::error_code ignored;
        if (fs::exists(file, ignored)) files.push_back(file.string());
      }
    }
  }
  return files;
}

std::string file_of(const void* address) {
  Dl_info info{};
  return dladdr(address, &info) != 0 && info.dli_fname != nullptr ? info.dli_fname : "";
}

}  // namespace

std::string own_folder() {
  std::error_code ignored;
  const fs::path file = fs::canonical(file_of(reinterpret_cast<const void*>(&own_folder)), ignored);
  return file.parent_path().string();
}

std::vector<std::string> parents(const std::string& folder) {
  constexpr int kLevels = 4;
  std::vector<std::string> folders;
  fs::path next = folder;
  for (int level = 0; level < kLevels && next.has_relative_path(); ++level, next = next.parent_path()) {
    folders.push_back(next.string());
  }
  return folders;
}

Library::Library(const LibraryQuery& query, void* handle, bool was_loaded)
    : what_(query.what), handle_(handle), was_loaded_(was_loaded) {
  path_ = file_of(require(query.probe.c_str()));
}

Library Library::open(const LibraryQuery& query) {
  for (const std::string& soname : query.sonames) {
    if (void* handle = dlopen(soname.c_str(), RTLD_LAZY | RTLD_NOLOAD)) return Library(query, handle, true);
  }
  // Linked into the program or into another library, under whatever name.
  if (dlsym(RTLD_DEFAULT, query.probe.c_str()) != nullptr) return Library(query, RTLD_DEFAULT, true);

  std::vector<std::string> candidates = wheel_files(query);
  candidates.insert(candidates.end(), query.sonames.begin(), query.sonames.end());
  std::string failures;
  for (const std::string& candidate : candidates) {
    if (void* handle = dlopen(candidate.c_str(), RTLD_LAZY | RTLD_LOCAL)) return Library(query, handle, false);
    failures += std::string("\n  ") + dlerror();
  }
  throw Error(ncclSystemError, query.what + " was not found: " + query.remedy + ". Tried:" + failures);
}

void* Library::find(const char* symbol) const noexcept { return dlsym(handle_, symbol); }

void* Library::require(const char* symbol) const {
  if (void* address = find(symbol)) return address;
  throw Error(ncclSystemError, what_ + " (" + path_ + ") has no " + symbol + ": it is too old");
}

}  // namespace nccl_ep::runtime
