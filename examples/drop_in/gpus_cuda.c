// SPDX-License-Identifier: Apache-2.0
// The GPUs of this host, a process for each rank.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "gpus.h"

enum { kMostRanks = 64 };

#define CUDA(call) check((call) == cudaSuccess, #call)
#define NCCL(call) check((call) == ncclSuccess, #call)
static void check(int succeeded, const char* call) {
  if (succeeded) return;
  fprintf(stderr, "%s failed\n", call);
  exit(1);
}

// What processes tell one another.
typedef struct {
  ncclUniqueId id;
  atomic_int has_id;
} Meeting;

static void run_rank(Meeting* meeting, int rank, int num_ranks, void (*body)(Gpu* gpu)) {
  Gpu gpu = {rank, num_ranks, NULL, NULL, NULL};
  CUDA(cudaSetDevice(rank));
  if (rank == 0) {
    NCCL(ncclGetUniqueId(&meeting->id));
    atomic_store(&meeting->has_id, 1);
  }
  while (!atomic_load(&meeting->has_id)) usleep(1000);
  NCCL(ncclCommInitRank(&gpu.comm, num_ranks, meeting->id, rank));
  CUDA(cudaStreamCreateWithFlags(&gpu.stream, cudaStreamNonBlocking));
  body(&gpu);
  CUDA(cudaStreamDestroy(gpu.stream));
  NCCL(ncclCommDestroy(gpu.comm));
}

void run_on_gpus(int num_ranks, void (*body)(Gpu* gpu)) {
  pid_t children[kMostRanks];
  check(num_ranks <= kMostRanks, "fewer ranks");
  Meeting* meeting = mmap(NULL, sizeof(Meeting), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  check(meeting != MAP_FAILED, "mmap");
  for (int rank = 0; rank < num_ranks; ++rank) {
    children[rank] = fork();
    check(children[rank] >= 0, "fork");
    if (children[rank] > 0) continue;
    run_rank(meeting, rank, num_ranks, body);
    exit(0);
  }
  for (int rank = 0, status; rank < num_ranks; ++rank) {
    if (wait(&status) > 0 && status == 0) continue;
    for (int r = 0; r < num_ranks; ++r) kill(children[r], SIGTERM);  // they would wait for the one that has failed
    exit(1);
  }
}

void* gpu_malloc(Gpu* gpu, size_t bytes) {
  (void)gpu;
  void* memory;
  CUDA(cudaMalloc(&memory, bytes));
  return memory;
}

void gpu_copy(Gpu* gpu, void* to, const void* from, size_t bytes) {
  CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, gpu->stream));
  CUDA(cudaStreamSynchronize(gpu->stream));
}
