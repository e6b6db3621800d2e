// SPDX-License-Identifier: Apache-2.0
// The same of a group of several LSA teams: combine_remote.cuh, with rows that travel as nvfp4_sums.cuh says.
#pragma once

#include "ll/combine_remote.cuh"
#include "ll/nvfp4_sums.cuh"

namespace nccl_ep::ll {

template <Layout kLayout, Peers kPeers = Peers::teams>
EP_DEVICE void combine_nvfp4_remote(const LlCombineArgs& args) {
  combine_remote_in_format<kLayout, DType::bf16, Nvfp4Rows, kPeers>(args);
}

}  // namespace nccl_ep::ll
