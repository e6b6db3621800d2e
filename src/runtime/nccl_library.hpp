// SPDX-License-Identifier: Apache-2.0
// Which NCCL this process has, for work that must fit it and needs no communicator.
#pragma once

#include <string>

namespace nccl_ep::runtime {

struct NcclLibrary {
  std::string path;  // of the file, links resolved
  int version;       // 23007 for 2.30.7
};

// Throws Error(ncclSystemError) where there is none, or it is too old for this library.
NcclLibrary nccl_library();

}  // namespace nccl_ep::runtime
