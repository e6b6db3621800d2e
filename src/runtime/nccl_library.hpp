// SPDX-License-Identifier: Apache-2.0
// Which NCCL this process has, for work that must fit it and needs no communicator.
#pragma once

#include <string>

namespace nccl_ep::runtime {

// As NCCL counts: 23007 for 2.30.7.
inline constexpr int nccl_version(int major, int minor, int patch) { return major * 10000 + minor * 100 + patch; }
inline constexpr int kMinNcclTeams = nccl_version(2, 30, 7);  // several LSA teams, and kernels that use the network

// "2.30.7".
std::string version_text(int version);

struct NcclLibrary {
  std::string path;  // of the file, links resolved
  int version;
};

// Throws Error(ncclSystemError) where there is none, or it is too old for this library.
NcclLibrary nccl_library();

}  // namespace nccl_ep::runtime
