// SPDX-License-Identifier: Apache-2.0
// Why NCCL has no network for kernels (GIN) that we can use, and what would help.
#pragma once

#include <string>

#include "runtime/runtime.hpp"

namespace nccl_ep::runtime::cuda {

struct NetworkFacts {
  int nccl_version;
  int gin_type;         // of connections between all ranks; 0: there are none
  int railed_gin_type;  // of connections along rails at least
  bool has_proxy;       // besides gin_type; only NCCL 2.31 and later say so
  bool gpu_has_rdma;    // this rank's memory that backs windows is open to NICs
  bool is_switched_off;
};

// $NCCL_GIN_ENABLE is 0. (NCCL's configuration files may say so, too; then it is not known here.)
bool is_network_switched_off();

// The reason and the remedy; empty when kernels can use the network that far. NCCL makes its types known to all ranks alike,
// so it is empty on all of them or on none.
std::string why_no_network(const NetworkFacts& facts, NetworkNeeds::Reach reach);

}  // namespace nccl_ep::runtime::cuda
