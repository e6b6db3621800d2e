// SPDX-License-Identifier: Apache-2.0
// The arguments of the High-Throughput kernels: plain data, filled in one place each (src/core/ht_*.cpp).
#pragma once

#include "shared/group_state.hpp"
#include "shared/ht_network.hpp"
#include "shared/quantization.hpp"
#include "shared/token_count.hpp"

namespace nccl_ep {

constexpr uint32_t kHtUpdateThreads = 512;
constexpr uint32_t kHtMoveThreads = 512;  // of dispatch and combine
// Calls of the network and patient waits take registers: narrower blocks have enough of them.
EP_HOST_DEVICE constexpr uint32_t ht_update_threads(bool uses_network) { return uses_network ? 256 : kHtUpdateThreads; }
EP_HOST_DEVICE constexpr uint32_t ht_move_threads(bool uses_network, bool masks) {
  return !uses_network ? kHtMoveThreads : masks ? 256 : 384;
}

constexpr uint32_t kHtStages = 4;  // of a warp that pushes rows

// Where combine quantizes what it pushes: a warp loads so many bytes of a row of bf16 at a time. What it has made leaves from
// stages of its own.
constexpr uint32_t kHtSumPartBytes = 2048;
constexpr uint32_t kHtSumStages = 2;
constexpr uint32_t kHtMaxSumParts = 16;  // that a warp has under way

// The window has the addresses of the own LSA team's ranks, by their numbers in the world.
struct HtGroupState : GroupState {
  HtLayout layout;
  uint32_t first_rank;  // of the team

  EP_HOST_DEVICE bool is_in_team(uint32_t rank_of_world) const { return rank_of_world - first_rank < layout.team_size; }
};

// A handle's memory on the device.
struct HtHandle {
  HtHandleLayout layout;
  unsigned char* memory;

  template <class T>
  EP_HOST_DEVICE T* at(uint64_t offset) const {
    return reinterpret_cast<T*>(memory + offset);
  }
  EP_HOST_DEVICE HtTotals* totals() const { return at<HtTotals>(0); }
  EP_HOST_DEVICE uint32_t* source(uint32_t rank) const { return at<uint32_t>(layout.source_at(rank)); }
  EP_HOST_DEVICE HtZone* zone(uint32_t expert) const { return at<HtZone>(layout.zone_at(expert)); }
  EP_HOST_DEVICE uint8_t* num_dests(uint32_t token) const { return at<uint8_t>(layout.num_dests_at(token)); }
  EP_HOST_DEVICE HtDest* dest(uint32_t token, uint32_t i) const { return at<HtDest>(layout.dest_at(token, i)); }
  EP_HOST_DEVICE HtOutgoing* outgoing(uint32_t flow) const { return at<HtOutgoing>(layout.outgoing_at(flow)); }
  EP_HOST_DEVICE HtSend* send(uint64_t i) const { return at<HtSend>(layout.send_at(i)); }
  EP_HOST_DEVICE HtHits* guest_hits(uint64_t send) const { return at<HtHits>(layout.guest_hits_at(send)); }
  EP_HOST_DEVICE HtParcelCounts* parcels(uint32_t other_team) const {
    return at<HtParcelCounts>(layout.parcels_at(other_team));
  }
  EP_HOST_DEVICE HtDeparture* departure(uint32_t other_team, uint32_t parcel) const {
    return at<HtDeparture>(layout.departure_at(other_team, parcel));
  }
  EP_HOST_DEVICE uint8_t* place(uint32_t token, uint32_t k) const { return at<uint8_t>(layout.place_at(token, k)); }
  EP_HOST_DEVICE HtHome* home(uint64_t row) const { return at<HtHome>(layout.home_at(row)); }
  EP_HOST_DEVICE uint32_t* hit(uint64_t row, uint32_t i) const { return at<uint32_t>(layout.hit_at(row, i)); }
};

// A top-k table as the caller has it.
struct TopkTable {
  const void* ids;  // [tokens.most, num_topk], int32 or int64
  uint32_t is_64bit;
  TokenCount tokens;
  uint32_t num_topk;
};

// A counter or an array of them that the caller may want, int32 or int64. Null: not wanted.
struct CounterOutput {
  void* data;
  uint32_t is_64bit;
};

// What the host may need to know of a handle's last update: a Unit, whose tag says which of the updates it is, counted by the
// host.
struct alignas(sizeof(Unit)) HtHostTotals {
  HtTotals totals;
  uint32_t update;
};
static_assert(sizeof(HtHostTotals) == sizeof(Unit));

// What an expert gets of the slots of a rank that has too few, while an update places tokens.
struct HtQuota {
  uint32_t begin, room;
};

struct HtUpdateArgs {
  HtGroupState group;
  HtHandle handle;
  TopkTable topk;
  uint32_t tile_tokens;      // a block's tokens at a time, a multiple of 32
  uint32_t tiles_per_block;  // consecutive ones
  uint32_t first_block;      // that has tokens: the one before, if there is one, deals with the other ranks alone
  Unit* block_counts;        // [block][six counters]
  uint32_t alignment;        // expert-major: of the rows of an expert
  uint64_t max_slots;        // rows of the outputs; 0: as many as there are
  uint32_t drops;            // what does not fit, instead of a fault
  CounterOutput expert_counters;
  CounterOutput expert_offsets;
  CounterOutput recv_total;
  Unit* host_totals;  // HtHostTotals in pinned host memory
  uint32_t update;    // for host_totals
  HtNetwork network;  // of a group of several LSA teams
};

// Where a stage goes, in the shared memory of a warp that pushes rows.
struct HtStageUse {
  unsigned char* to;
  uint32_t bytes;
};

// Of the rows of one flow.
struct HtPushed {
  uint32_t num_taken;    // by warps that push
  uint32_t num_arrived;  // counted in dispatch
};

// How rows' scales get to other ranks.
enum class ScalesGo : uint32_t {
  in_stages,  // with their row's last piece
  by_lanes,   // the lanes of the warp that pushes the row copy them
  apart,      // the warps that receive send them, those of neighbouring rows together
};

// Scales beside rows, in dispatch with a recipe that has them.
struct HtScales {
  uint32_t row_bytes;   // of a row's scales
  uint32_t word_bytes;  // 16, 4 or 1: they are so many whole words, wherever they lie
  ScalesGo go;
  const unsigned char* given;  // [num_tokens, row]
  PeerWindow out_window;       // as that of the rows
  unsigned char* out;          // [rows, row]
};

// Rows that dispatch makes of the caller's before they leave, each once. They are then what travels.
struct HtQuantization {
  const unsigned char* tokens;  // [num_tokens, 2 * row] bf16; null: rows travel as they are given
  bool rounds;                  // scales are powers of two
  uint32_t* ready;              // [token]: the operation that has made its row
};

// How rows are moved: pushed through stages in shared memory, a ring for each warp that pushes. The other blocks receive; if
// all blocks push, their other warps do, and rows that stay on this rank are dealt to the warps that push.
struct HtMovePlan {
  uint32_t row_bytes;
  uint32_t piece_bytes;  // a row is pushed in pieces of this size, the last may be smaller
  uint32_t num_pieces;
  uint32_t stage_bytes;  // what a stage holds at most: a piece, and scales
  uint32_t push_blocks;
  uint32_t push_warps;   // of such a block
  uint32_t ticket_rows;  // that a warp takes at a time
  uint32_t num_parts;    // that a warp which quantizes sums has under way
  // Counters of two operations, which take turns (tickets.cuh):
  HtPushed* pushed;     // [turn][flow]; in combine flows lead to the hosts of tokens
  uint32_t* num_begun;  // [turn], by warps: combine: sums; dispatch: tokens to be quantized

  // Of shared memory, for a warp that pushes rows: stages, an mbarrier for each, what becomes of them, and of scales in them.
  EP_HOST_DEVICE uint64_t mover_bytes() const {
    return align_up(kHtStages * (stage_bytes + sizeof(uint64_t) + 2 * sizeof(HtStageUse)), 128);
  }
  // For one that quantizes sums: an mbarrier for each part that may be under way, stages for them, and those that pieces
  // leave from.
  EP_HOST_DEVICE uint64_t sum_mover_bytes() const {
    return align_up(kHtMaxSumParts * sizeof(uint64_t) + num_parts * kHtSumPartBytes + kHtSumStages * stage_bytes, 128);
  }
};

struct HtDispatchArgs {
  HtGroupState group;
  HtHandle handle;
  HtMovePlan move;
  uint32_t num_topk;
  const unsigned char* tokens;  // [tokens, row]
  const float* topk_weights;    // [tokens, num_topk]; null in the backward pass
  PeerWindow out_window;        // all ranks' outputs; base 0: the output is no window
  unsigned char* out_tokens;    // [rows, row]
  float* out_topk_weights;      // flat: [rows, num_topk]; expert-major: [rows]
  int64_t* out_topk_idx;        // flat: [rows, num_topk]
  uint32_t first_expert;        // added to the local experts in out_topk_idx
  HtScales scales;
  HtQuantization quantization;
  HtNetwork network;  // of a group of several LSA teams
  HtParcels parcels;
};

struct HtCombineArgs {
  HtGroupState group;
  HtHandle handle;
  HtMovePlan move;
  uint32_t num_topk;
  const unsigned char* tokens;  // [rows, row]: as dispatch's output
  const float* topk_weights;    // backward: the gradients of the weights, as dispatch's out_topk_weights; else null
  unsigned char* out_tokens;    // [tokens, row]
  float* out_topk_weights;      // backward: [tokens, num_topk]
  DType dtype;                  // of the rows, for kernels that are not compiled for one
  bool is_expert_major;         // for kernels that are not compiled for a layout
  HtNetwork network;            // of a group of several LSA teams
  HtParcels parcels;
  uint32_t* num_ready;  // [other team][chunk]: parcels that are ready to leave
};

using HtCleanArgs = CleanRemoteArgs<HtGroupState, HtNetwork>;

}  // namespace nccl_ep
