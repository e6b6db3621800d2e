// SPDX-License-Identifier: Apache-2.0
// Every wait of every kernel, once: its code on the device, its name, and how a message describes what was awaited.
#pragma once

#include "shared/types.hpp"

//                 name           what was awaited
#define NCCL_EP_WAITS(X)                               \
  X(bank_free, "the receive bank to be free")          \
  X(token_counts, "the token counts")                  \
  X(expert_counts, "the expert counts")                \
  X(token_routes, "the routes of a token")             \
  X(route_weights, "the weights of a token")           \
  X(dispatch_row, "a dispatched row")                  \
  X(combine_row, "a combined row")                     \
  X(peer_start, "the start of the operation")          \
  X(block_counts, "the counts of a block")             \
  X(source_counts, "the counts of tokens")             \
  X(row_record, "the record of a row")                 \
  X(row_weights, "the weights of a row")               \
  X(rows_done, "the last rows")                        \
  X(mask_meeting, "its call of ncclEpMaskClean")       \
  X(mask_agreement, "its word at ncclEpMaskClean")     \
  X(remote_counts, "the counts through the network")   \
  X(remote_tallies, "the tallies through the network") \
  X(remote_records, "the records through the network") \
  X(remote_weights, "the weights through the network") \
  X(remote_rows, "the rows through the network")

namespace nccl_ep {

enum class Wait : uint32_t {
  none,
#define NCCL_EP_WAIT_CODE(name, sentence) name,
  NCCL_EP_WAITS(NCCL_EP_WAIT_CODE)
#undef NCCL_EP_WAIT_CODE
};

// What a kernel leaves in pinned host memory when it gives up. `code` is written last.
struct FaultRecord {
  enum Code : uint32_t { kNone = 0, kTimeout = 1, kBadExpert = 2, kOverflow = 3, kBadCount = 4 };
  uint32_t code;
  Wait wait;
  uint32_t rank;  // who waited
  uint32_t peer;  // for whom
  // Of the peer, or of this rank for kBadExpert. Wait::block_counts: the block; Wait::row_record: the row. kOverflow: how
  // many rows the peer has room for; kBadCount: how many tokens there may be.
  uint32_t token;
  uint32_t epoch;
  // kBadExpert: the id found in topk_idx; kOverflow: how many rows the peer would receive; kBadCount: the count found.
  int64_t expert;
};

// What the kernels of a group tell the host.
struct FaultRecords {
  FaultRecord failure;   // after which the group is of no more use
  FaultRecord loss;      // of a rank, without which the group goes on
  uint32_t lacks_ranks;  // some take no part, also such as this one does not deal with and so has not masked
};

}  // namespace nccl_ep
