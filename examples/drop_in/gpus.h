// SPDX-License-Identifier: Apache-2.0
// What moe_layer.c needs of GPUs besides nccl_ep.h: gpus_cuda.c has real ones, gpus_sim.c simulated ones.
#pragma once
#include <nccl_ep.h>

typedef struct {
  int rank;
  int num_ranks;
  ncclComm_t comm;
  cudaStream_t stream;
  void* cluster;  // the simulator's
} Gpu;

// Runs `body` for each rank of a new communicator, and returns when all have ended. A rank that fails ends the program.
void run_on_gpus(int num_ranks, void (*body)(Gpu* gpu));

// Device memory; the program's end frees it.
void* gpu_malloc(Gpu* gpu, size_t bytes);

// Copies between host and device behind all that the stream has to do, and waits for it.
void gpu_copy(Gpu* gpu, void* to, const void* from, size_t bytes);
