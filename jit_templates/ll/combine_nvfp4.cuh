// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine with NCCL_EP_COMB_QUANT_NVFP4: combine.cuh, with rows that travel as nvfp4_sums.cuh says.
#pragma once

#include "ll/nvfp4_sums.cuh"

namespace nccl_ep::ll {

template <Layout kLayout, Peers kPeers = Peers::team>
EP_DEVICE void combine_nvfp4(const LlCombineArgs& args) {
  combine_in_format<kLayout, DType::bf16, Nvfp4Rows, kPeers>(args);
}

}  // namespace nccl_ep::ll
