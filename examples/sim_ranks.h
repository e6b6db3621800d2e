// SPDX-License-Identifier: Apache-2.0
// What the examples need besides nccl_ep.h: simulated GPUs, a thread for each, and tensors in their memory.
#pragma once
#ifndef NCCL_EP_OWN_TYPES
#define NCCL_EP_OWN_TYPES  // no CUDA or NCCL headers needed
#endif
#include <nccl_ep.h>
#include <nccl_ep_sim.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define OK(call) ((call) == ncclSuccess ? (void)0 : fail(#call))
static void fail(const char* call) {
  fprintf(stderr, "%s\n%s\n%s\n", call, ncclEpGetLastError(NULL), ncclEpSimGetLastError());
  exit(1);
}

typedef struct {
  ncclEpSimCluster_t cluster;
  int rank;
  ncclComm_t comm;
  void (*body)(ncclEpSimCluster_t cluster, int rank, ncclComm_t comm);
} SimRank;

static _Thread_local ncclEpTensor_t* sim_tensors[16];  // of this thread's rank
static _Thread_local int num_sim_tensors;

static void* run_sim_rank(void* argument) {
  SimRank* self = (SimRank*)argument;
  OK(ncclEpSimRankEnter(self->cluster, self->rank));
  OK(ncclEpSimGetComm(self->cluster, self->rank, &self->comm));
  self->body(self->cluster, self->rank, self->comm);
  while (num_sim_tensors > 0) OK(ncclEpTensorDestroy(sim_tensors[--num_sim_tensors]));
  OK(ncclEpSimRankLeave(self->cluster, self->rank));
  return NULL;
}

// Runs `body` for each rank of a new cluster of `num_ranks` GPUs in one node.
static void run_sim_ranks(int num_ranks, void (*body)(ncclEpSimCluster_t cluster, int rank, ncclComm_t comm)) {
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = (uint32_t)num_ranks;
  ncclEpSimCluster_t cluster;
  OK(ncclEpSimClusterCreate(&cluster, &config));
  pthread_t threads[64];
  SimRank ranks[64];
  for (int r = 0; r < num_ranks; ++r) {
    ranks[r] = (SimRank){cluster, r, NULL, body};
    if (pthread_create(&threads[r], NULL, run_sim_rank, &ranks[r]) != 0) fail("pthread_create");
  }
  for (int r = 0; r < num_ranks; ++r) pthread_join(threads[r], NULL);
  OK(ncclEpSimClusterDestroy(cluster));
}

// A tensor of 4-byte elements in the rank's device memory. It lives as long as the rank's thread, its memory as long as
// the cluster.
static inline ncclEpTensor_t* make_sim_tensor(ncclEpSimCluster_t cluster, int rank, ncclDataType_t datatype,
                                              unsigned ndim, const size_t* sizes) {
  if (num_sim_tensors == 16) fail("more than 16 tensors");
  ncclEpTensor_t* tensor;
  size_t bytes = 4;
  for (unsigned i = 0; i < ndim; ++i) bytes *= sizes[i];
  OK(ncclEpTensorAlloc(&tensor, ndim, datatype, sizes, NULL));
  OK(ncclEpSimMalloc(cluster, rank, &tensor->data, bytes));
  sim_tensors[num_sim_tensors++] = tensor;
  return tensor;
}
#define TENSOR(datatype, ndim, ...) make_sim_tensor(cluster, rank, datatype, ndim, (const size_t[]){__VA_ARGS__})
