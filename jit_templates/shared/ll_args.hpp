// SPDX-License-Identifier: Apache-2.0
// The arguments of the Low-Latency kernels: plain data, filled in one place each (src/core/ll_*.cpp).
#pragma once

#include "shared/group_state.hpp"
#include "shared/ll_layout.hpp"
#include "shared/ll_network.hpp"
#include "shared/quantization.hpp"
#include "shared/token_count.hpp"

namespace nccl_ep {

// Threads of a block at most; one block takes an SM's registers.
constexpr uint32_t kLlDispatchThreads = 768;
constexpr uint32_t kLlCombineThreads = 384;

// Threads of a block of an operation at most. NCCL's calls for the network take more registers.
EP_HOST_DEVICE constexpr uint32_t ll_dispatch_threads(bool uses_network) {
  return uses_network ? kLlDispatchThreads / 2 : kLlDispatchThreads;
}
EP_HOST_DEVICE constexpr uint32_t ll_combine_threads(bool uses_network) {
  return uses_network ? kLlCombineThreads * 2 / 3 : kLlCombineThreads;
}

// An operation is sending, then receiving; send_only and Complete run the halves in two launches.
enum LlPhase : uint32_t { kLlSend = 1, kLlReceive = 2 };

struct LlGroupState : GroupState {
  LlLayout layout;  // of the LSA team's window
};

// This rank's routing, and what the handle remembers of the dispatch.
struct LlRouting {
  const void* topk_idx;  // [tokens.most, num_topk], int32 or int64
  TokenCount tokens;
  uint32_t idx_is_64bit;
  uint32_t num_topk;
  LlHandleLayout handle_layout;
  unsigned char* handle_memory;

  EP_HOST_DEVICE uint32_t* pending_epoch() const { return at<uint32_t>(handle_layout.pending_epoch_at()); }
  EP_HOST_DEVICE uint32_t* num_tokens_of(uint32_t source) const {
    return at<uint32_t>(handle_layout.num_tokens_at(source));
  }
  EP_HOST_DEVICE LlRouteHeader* header(uint64_t slot) const { return at<LlRouteHeader>(handle_layout.header_at(slot)); }
  EP_HOST_DEVICE LlRouteEntry* entry(uint64_t slot, uint32_t hit) const {
    return at<LlRouteEntry>(handle_layout.entry_at(slot, hit));
  }

  template <class T>
  EP_HOST_DEVICE T* at(uint64_t offset) const {
    return reinterpret_cast<T*>(handle_memory + offset);
  }
};

// A chunk of combine's rows that travel quantized (quantized_sums.cuh).
struct LlSumChunk {
  static constexpr uint32_t kGroups = 11;
  static constexpr uint32_t kScalePacks = 3;
  static constexpr uint32_t kPacksPerGroup = kScaleGroup / 16;
  static constexpr uint32_t kNumberPacks = kGroups * kPacksPerGroup;
};

// The same of those that travel as NVFP4 (nvfp4_sums.cuh). Chunks are of one strip.
struct LlNvfp4Chunk {
  static constexpr uint32_t kScalePacks = 4;
  static constexpr uint32_t kNumberPacks = kPacksPerStrip - kScalePacks;
  static constexpr uint32_t kGroupsPerPack = 2;
};

// The size of a row as it travels, with its scales if it has any, and the pieces that warps take it in.
struct LlRowPlan {
  static constexpr uint32_t kStripsPerChunk = 3;

  uint32_t packs_per_row;  // of 16 bytes
  uint32_t num_chunks;
  uint32_t chunks_per_item;  // combine: of a sum that a warp makes at a time

  EP_HOST_DEVICE static LlRowPlan make(uint64_t row_bytes) {
    const uint64_t packs = row_bytes / 16;
    return {static_cast<uint32_t>(packs), static_cast<uint32_t>(div_up(packs, kPacksPerStrip * kStripsPerChunk)), 1};
  }
  // Of rows of combine that travel quantized: all chunks but the last are full.
  EP_HOST_DEVICE static LlRowPlan make_quantized(uint32_t num_groups) {
    const uint32_t full_chunks = (num_groups - 1) / LlSumChunk::kGroups;
    const uint32_t last_groups = num_groups - full_chunks * LlSumChunk::kGroups;
    const uint32_t packs = full_chunks * kPacksPerStrip * kStripsPerChunk + LlSumChunk::kScalePacks +
                           last_groups * LlSumChunk::kPacksPerGroup;
    return {packs, full_chunks + 1, 1};
  }
  EP_HOST_DEVICE static LlRowPlan make_nvfp4(uint32_t num_groups) {
    const uint32_t number_packs = num_groups / LlNvfp4Chunk::kGroupsPerPack;
    const uint32_t num_chunks = static_cast<uint32_t>(div_up(number_packs, LlNvfp4Chunk::kNumberPacks));
    return {number_packs + num_chunks * LlNvfp4Chunk::kScalePacks, num_chunks, 1};
  }
  EP_HOST_DEVICE uint64_t row_bytes() const { return uint64_t{packs_per_row} * 16; }
};

// What comes with each row in the recipes that have scales (payload.cuh).
struct LlScales {
  const unsigned char* from;  // [num_tokens, bytes_per_row], or null where dispatch quantizes
  unsigned char* to;          // as out_tokens
  uint32_t bytes_per_row;
  uint32_t row_packs;  // of a row as it arrives, without its scales
  uint32_t quantizes;  // the tokens are bf16, and arrive as E4M3
  uint32_t rounded;    // to powers of two
};

struct LlDispatchArgs {
  LlGroupState group;
  LlRouting routing;
  LlRowPlan rows;
  uint32_t phases;
  uint32_t num_pending;       // operations that may still be received as this one begins: 0, or 1, the one before
  uint32_t push_warps;        // of a block; the others receive from the start
  uint32_t experts_per_pass;  // expert-major: how many experts' token bitmaps fit in shared memory at a time
  uint32_t global_expert_ids;
  const unsigned char* tokens;  // [num_tokens, row]
  const float* topk_weights;    // rank-major: [num_tokens, num_topk], else null
  unsigned char* out_tokens;    // [local experts, ranks * max tokens, row] or [ranks, max tokens, row]
  float* out_topk_weights;      // rank-major: [ranks, max tokens, num_topk]
  int32_t* out_topk_idx;        // rank-major: [ranks, max tokens, num_topk]
  int32_t* expert_counters;     // expert-major: [local experts]
  int32_t* src_rank_counters;   // rank-major: [ranks], or null
  LlScales scales;
  LlNetwork network;  // of a group of several LSA teams
};

struct LlCombineArgs {
  LlGroupState group;
  LlRouting routing;
  LlRowPlan rows;
  uint32_t phases;
  uint32_t num_pending;         // operations that may still be received as this one begins: 0, or 1, the one before
  uint32_t push_warps;          // of a block; the others, at least one, collect from the start
  const unsigned char* tokens;  // as dispatch's out_tokens
  const float* topk_weights;    // expert-major: [num_tokens, num_topk]
  unsigned char* out_tokens;    // [num_tokens, row]
  DType dtype;                  // of the rows, for kernels that are not compiled for one
  uint32_t num_groups;          // of a row that travels quantized
  LlNetwork network;            // of a group of several LSA teams
  const float* global_scales;   // NVFP4: of each row of tokens
};

using LlCleanArgs = CleanRemoteArgs<LlGroupState, LlNetwork>;

}  // namespace nccl_ep
