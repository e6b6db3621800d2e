// SPDX-License-Identifier: Apache-2.0
// Where the headers are that kernels using the network include: NCCL's beside the loaded libnccl, CUDA's and libcu++'s
// in wheels beside this library or NVRTC, in a toolkit, or where the system has them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "jit/compiler.hpp"
#include "jit/settings.hpp"

namespace nccl_ep::jit {

struct NcclFolder {
  std::filesystem::path path;
  int version;  // 23007 for 2.30.7
};

// Throws Error(ncclSystemError) when there are no headers, when they are too old, or when they lie beside another NCCL
// than the loaded one.
NcclFolder find_nccl_headers(const Settings& settings);

// Throws Error(ncclSystemError) when the process has loaded another NCCL than the headers are of.
void require_loaded_nccl(const NcclFolder& headers);

struct CudaFolders {
  std::vector<std::filesystem::path> paths;
  std::string versions;  // "CUDA_VERSION 13000, CCCL_VERSION 3000003"
};

// Throws Error(ncclSystemError) that names the missing package.
CudaFolders find_cuda_headers(const Settings& settings, const CompilerVersion& compiler);

// Among these include folders; what the unit tests drive.
CudaFolders choose_cuda_headers(const std::vector<std::filesystem::path>& candidates, int major);

// The number that a header defines as `macro`, or 0.
int defined_number(const std::filesystem::path& header, const std::string& macro);

}  // namespace nccl_ep::jit
