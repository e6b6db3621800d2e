// SPDX-License-Identifier: Apache-2.0
// What GPUs there are, for work that needs no communicator.
#pragma once

#include <string>
#include <vector>

namespace nccl_ep::runtime {

// The architectures of the visible GPUs, each once: {"sm_90a"}. Throws Error where there is no driver, or a
// GPU is older than the kernels support.
std::vector<std::string> visible_archs();

}  // namespace nccl_ep::runtime
