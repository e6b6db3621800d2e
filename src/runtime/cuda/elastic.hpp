// SPDX-License-Identifier: Apache-2.0
// Elastic memory with a driver that is given, so that tests can give their own.
#pragma once

#include "runtime/cuda/driver.hpp"
#include "runtime/elastic.hpp"

namespace nccl_ep::runtime::cuda {

ElasticMemory allocate_elastic(const Driver& cu, int device, size_t gpu_bytes, size_t host_bytes);
void release_elastic(const Driver& cu, const ElasticMemory& memory);

}  // namespace nccl_ep::runtime::cuda
