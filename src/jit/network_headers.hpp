// SPDX-License-Identifier: Apache-2.0
// What a kernel that uses the network is compiled with besides our own headers.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "jit/header_folders.hpp"
#include "jit/header_rewrite.hpp"
#include "jit/settings.hpp"

namespace nccl_ep::jit {

struct NetworkHeaders {
  NcclFolder nccl;    // where NCCL's are
  Headers in_memory;  // NCCL's device headers, rewritten for NVRTC, and stand-ins for the C library's
  std::vector<std::filesystem::path> folders;  // CUDA's headers and libcu++
  std::string folder_versions;                 // of what is in them
  std::vector<std::string> options;
};

// Throws Error(ncclSystemError) that names what is missing and the package that has it.
NetworkHeaders load_network_headers(const Settings& settings);

// Writes the headers in memory into a folder, and returns the options with which NVRTC finds all of them there.
std::vector<std::string> export_network_headers(const NetworkHeaders& headers, const std::filesystem::path& folder);

}  // namespace nccl_ep::jit
