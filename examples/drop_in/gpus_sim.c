// SPDX-License-Identifier: Apache-2.0
// Simulated GPUs, a thread for each rank.
#include "gpus.h"

#include "../sim_ranks.h"

static void (*body_of_all)(Gpu* gpu);

static void run_rank(ncclEpSimCluster_t cluster, int rank, ncclComm_t comm) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  OK(ncclEpSimGetConfig(cluster, &config));
  Gpu gpu = {rank, (int)config.gpus_per_node, comm, NULL, cluster};
  body_of_all(&gpu);
}

void run_on_gpus(int num_ranks, void (*body)(Gpu* gpu)) {
  body_of_all = body;
  run_sim_ranks(num_ranks, run_rank);
}

void* gpu_malloc(Gpu* gpu, size_t bytes) {
  void* memory;
  OK(ncclEpSimMalloc(gpu->cluster, gpu->rank, &memory, bytes));
  return memory;
}

void gpu_copy(Gpu* gpu, void* to, const void* from, size_t bytes) {
  OK(ncclEpSimMemcpyAsync(gpu->cluster, gpu->rank, to, from, bytes, gpu->stream));
  OK(ncclEpSimStreamSynchronize(gpu->cluster, gpu->rank, gpu->stream));
}
