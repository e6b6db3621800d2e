// SPDX-License-Identifier: Apache-2.0
// Which ranks of a group take part, in device memory.
#pragma once

#include <vector>

#include "core/memory.hpp"
#include "shared/group_state.hpp"

namespace nccl_ep::core {

class RankMask {
 public:
  // All ranks are active. `life_at`: where the window has the ranks' signs of life.
  RankMask(runtime::Device& device, Allocator& allocator, uint32_t num_ranks, uint64_t life_at);

  // Of device memory.
  static size_t bytes(uint32_t num_ranks);

  nccl_ep::RankMask state() const;
  // In stream order. `mask` has an entry for each rank: 1 for those that take part, 0 for the others.
  void query(int* mask_status, cudaStream_t stream);
  void update(const int* mask, cudaStream_t stream);
  // Makes a word in pinned host memory zero.
  void clear(uint32_t* word_in_host, cudaStream_t stream);

  // Who is masked now, whatever is under way. Waits for the device to tell.
  std::vector<uint32_t> masked_ranks();

 private:
  uint32_t* words() const { return words_.as<uint32_t>(); }

  runtime::Device& device_;
  uint32_t num_ranks_;
  uint64_t life_at_;
  DeviceMemory words_;
  HostMemory copy_;
};

}  // namespace nccl_ep::core
