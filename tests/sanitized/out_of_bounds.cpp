// SPDX-License-Identifier: Apache-2.0
// Shows that AddressSanitizer sees what a kernel writes behind its memory: `out_of_bounds PLACE INDEX` writes one word of
// an array of kCount words, in device memory (PLACE 0), a static shared array (1) or dynamic shared memory (2).
#include <cstdio>
#include <cstdlib>

#include "device/device.hpp"
#include "nccl_ep_sim.h"

namespace {

using namespace nccl_ep;

constexpr uint32_t kCount = 100;
constexpr uint32_t kBytes = kCount * sizeof(uint32_t);

struct Args {
  uint32_t* device_memory;
  uint32_t place;
  uint32_t index;
};

void write_one_word(const Args& args) {
  EP_SHARED(uint32_t, static_shared, [kCount]);
  EP_DYNAMIC_SHARED(dynamic_shared);
  uint32_t* const arrays[] = {args.device_memory, static_shared, reinterpret_cast<uint32_t*>(dynamic_shared)};
  if (dev::thread_idx() == 0) arrays[args.place][args.index] = 1;
}

EP_SIM_KERNEL("write_one_word", write_one_word, Args)

void require(ncclResult_t result) {
  if (result == ncclSuccess) return;
  std::fprintf(stderr, "%s\n", ncclEpSimGetLastError());
  std::exit(1);
}

uint32_t number(const char* text) { return static_cast<uint32_t>(std::strtoul(text, nullptr, 10)); }

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  ncclEpSimConfig_t config = NCCL_EP_SIM_CONFIG_INIT;
  config.gpus_per_node = 1;
  config.memory_bytes = 1 << 20;
  ncclEpSimCluster_t cluster;
  void* memory;
  require(ncclEpSimClusterCreate(&cluster, &config));
  require(ncclEpSimRankEnter(cluster, 0));
  require(ncclEpSimMalloc(cluster, 0, &memory, kBytes));
  const Args args{static_cast<uint32_t*>(memory), number(argv[1]), number(argv[2])};
  require(ncclEpSimLaunch(cluster, 0, "write_one_word", 1, 32, kBytes, &args, sizeof(args), nullptr));
  require(ncclEpSimStreamSynchronize(cluster, 0, nullptr));
  require(ncclEpSimRankLeave(cluster, 0));
  require(ncclEpSimClusterDestroy(cluster));
  return 0;
}
