// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/network_support.hpp"

#include <cstdlib>

#include "runtime/cuda/nccl_api.hpp"

namespace nccl_ep::runtime::cuda {

bool is_network_switched_off() {
  const char* value = std::getenv("NCCL_GIN_ENABLE");
  return value != nullptr && std::string(value) == "0";
}

std::string why_no_network(const NetworkFacts& facts, NetworkNeeds::Reach reach) {
  if (facts.nccl_version < kMinNcclTeams) {
    return "NCCL is " + version_text(facts.nccl_version) + ", expected " + version_text(kMinNcclTeams) +
           " or later (pip install -U nvidia-nccl-cu13, -cu12 with CUDA 12)";
  }
  const bool along_rails = reach == NetworkNeeds::Reach::rail && facts.gin_type == NCCL_GIN_TYPE_NONE;
  const int gin_type = along_rails ? facts.railed_gin_type : facts.gin_type;
  if (gin_type == NCCL_GIN_TYPE_PROXY || gin_type == NCCL_GIN_TYPE_GDAKI) return {};
  if (gin_type != NCCL_GIN_TYPE_NONE) {
    if (facts.has_proxy) return {};
    return "NCCL's GIN is of type " + std::to_string(gin_type) +
           ", expected 2 (PROXY) or 3 (GDAKI), for which kernels are compiled; NCCL_GIN_TYPE=2 asks for the proxy";
  }
  if (facts.is_switched_off) return "NCCL_GIN_ENABLE is 0, expected 1 or not set";
  if (facts.railed_gin_type != NCCL_GIN_TYPE_NONE) {
    return "NCCL connects ranks along rails only, which is enough for High Throughput without masks; expected "
           "every rank with every other one. NCCL_CROSS_NIC=0 does that, set it to 1 or 2";
  }
  if (!facts.gpu_has_rdma) {
    return "this GPU's windows are closed to NICs (CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, 110, "
           "is "
           "0), so NCCL has no GIN; a driver and a machine with GPUDirect RDMA are needed";
  }
  return "NCCL has found no GIN plugin and device on one of the ranks or on all. It needs an RDMA NIC (ConnectX-4 or "
         "later, with rdma-core), or a plugin named in NCCL_RMA_PLUGIN or NCCL_GIN_PLUGIN; python -m nccl_ep.loopback "
         "stands in for NICs between the GPUs of one host. NCCL_DEBUG=INFO NCCL_DEBUG_SUBSYS=INIT,NET says more";
}

}  // namespace nccl_ep::runtime::cuda
