// SPDX-License-Identifier: Apache-2.0
#include "core/rank_mask.hpp"

#include <algorithm>

#include "shared/ht_network.hpp"
#include "shared/ll_layout.hpp"

namespace nccl_ep::core {
namespace {

constexpr uint32_t kNumVerdicts = 3;  // of a rank, at most
static_assert(kNumVerdicts >= LlLayout::kNumBanks && kNumVerdicts > HtRemoteLayout::kList);
constexpr uint32_t kNumArrays = 1 + kNumVerdicts + 1;  // of a word for each rank; behind them is a zero

}  // namespace

RankMask::RankMask(runtime::Device& device, Allocator& allocator, uint32_t num_ranks, uint64_t life_at)
    : device_(device), num_ranks_(num_ranks), life_at_(life_at) {
  words_ = DeviceMemory(allocator, allocator.allocate(bytes(num_ranks), "rank mask"));
  copy_ = HostMemory(device, device.allocate_host(sizeof(uint32_t) * num_ranks));
  const cudaStream_t stream = device.own_stream();
  device.fill(words_.data(), 0, bytes(num_ranks), stream);
  update(std::vector<int>(num_ranks, 1).data(), stream);
  device.synchronize(stream);
}

size_t RankMask::bytes(uint32_t num_ranks) { return sizeof(uint32_t) * (size_t{kNumArrays} * num_ranks + 1); }

nccl_ep::RankMask RankMask::state() const {
  uint32_t* verdicts = words() + num_ranks_;
  return {words(), verdicts, verdicts + kNumVerdicts * num_ranks_, life_at_};
}

void RankMask::query(int* mask_status, cudaStream_t stream) {
  device_.copy(mask_status, words(), sizeof(int) * num_ranks_, stream);
}

// In stream order, from a word that stays zero: a captured fill would have to be of device memory.
void RankMask::clear(uint32_t* word_in_host, cudaStream_t stream) {
  device_.copy(word_in_host, words() + kNumArrays * num_ranks_, sizeof(uint32_t), stream);
}

// By fills, which take their value along: the caller's array may be gone when the stream comes to it.
void RankMask::update(const int* mask, cudaStream_t stream) {
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    device_.fill(words() + rank, static_cast<uint8_t>(mask[rank]), 1, stream);  // the low byte; the others are zero
  }
}

std::vector<uint32_t> RankMask::masked_ranks() {
  const cudaStream_t stream = device_.own_stream();
  device_.copy(copy_.data(), words(), sizeof(uint32_t) * num_ranks_, stream);
  device_.synchronize(stream);
  std::vector<uint32_t> masked;
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    if (!copy_.as<uint32_t>()[rank]) masked.push_back(rank);
  }
  return masked;
}

}  // namespace nccl_ep::core
