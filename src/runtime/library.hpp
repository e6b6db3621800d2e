// SPDX-License-Identifier: Apache-2.0
// Shared libraries that are found at run time and stay loaded: the CUDA driver, NCCL, NVRTC.
#pragma once

#include <string>
#include <vector>

namespace nccl_ep::runtime {

struct LibraryQuery {
  std::string what;                        // "NCCL", for messages
  std::vector<std::string> sonames;        // in order of preference
  std::vector<std::string> wheel_folders;  // below site-packages: "nvidia/nccl/lib"
  std::string probe;                       // a function that every version has
  std::string remedy;                      // the end of the message when there is none
};

class Library {
 public:
  // Looks among what the process has loaded, then in wheels installed beside us, then where the system looks.
  // Throws Error(ncclSystemError) that says what was tried.
  static Library open(const LibraryQuery& query);

  // The file, as far as the dynamic linker tells.
  const std::string& path() const { return path_; }
  // Whether somebody else had loaded it before us.
  bool was_loaded() const { return was_loaded_; }

  void* find(const char* symbol) const noexcept;
  // Throws Error(ncclSystemError) when the symbol is missing: the library is too old.
  template <class Function>
  void bind(Function*& function, const char* symbol) const {
    function = reinterpret_cast<Function*>(require(symbol));
  }

 private:
  Library(const LibraryQuery& query, void* handle, bool was_loaded);
  void* require(const char* symbol) const;

  std::string what_;
  std::string path_;
  void* handle_;
  bool was_loaded_;
};

// The folder of the library that this code is in.
std::string own_folder();

// A folder and those above it in which a wheel may have been installed: ours is site-packages/nccl_ep/lib.
std::vector<std::string> parents(const std::string& folder);

}  // namespace nccl_ep::runtime
