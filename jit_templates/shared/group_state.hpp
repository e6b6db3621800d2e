// SPDX-License-Identifier: Apache-2.0
// What the kernels of either algorithm know of a group.
#pragma once

#include "shared/mask_meetings.hpp"
#include "shared/waits.hpp"

namespace nccl_ep {

constexpr uint32_t kMaxStaticSharedBytes = 32 * 1024;  // of any kernel

enum class Layout : uint32_t { expert_major = 1, rank_major = 2, flat = 3 };
enum class DType : uint32_t { bf16, fp16, fp32 };

// Advanced by the kernels themselves, so that a captured graph replays with fresh epochs.
struct GroupProgress {
  uint32_t epoch;           // of the last operation started on this rank, from 1 on
  uint32_t blocks_done[2];  // of the running kernel; Low Latency: of the one that uses a bank
  uint32_t failed;          // a wait of this rank timed out: the others give up at once
  uint32_t banks_free;      // Low Latency: the operation that is known to find its bank free on every rank
  uint32_t senders_done;    // of the running kernel: warps or blocks that have sent all that others wait for
  uint32_t told_remote;     // Low Latency: other LSA teams know that all operations before this one are finished here
  uint32_t has_losses;      // a rank has been masked since the caller last asked to forget it
  uint32_t turn;            // High Throughput: of the counters that the next dispatch or combine uses
};

// Which ranks take part, of a group that goes on without those that do not answer. Words in device memory; `active` is null
// in other groups.
struct RankMask {
  uint32_t* active;    // [rank]: 1, or 0 for one that is masked
  uint32_t* verdicts;  // whether an operation has a rank's tokens: Low Latency [bank][rank] (ll/lost_ranks.cuh), High
                       // Throughput [rank] (ht/participants.cuh), and behind them whether what one in another LSA team
                       // tells has come: [word][rank] (ht/update_remote.cuh)
  uint32_t* seen;      // [rank]: what was last heard at a first meeting (clean.cuh)
  uint64_t life_at;    // in every rank's window, [rank]: a word that a rank changes while it waits for others
};

struct GroupState {
  PeerWindow window;
  GroupProgress* progress;
  FaultRecords* faults;  // pinned host memory
  uint64_t timeout_ns;
  uint32_t rank;
  uint32_t num_ranks;
  uint32_t num_local_experts;
  RankMask mask;
};

constexpr uint32_t kCleanThreads = 32;

struct CleanArgs {
  GroupState group;
  MaskMeetings meetings;
};

// The same of a group of several LSA teams.
template <class Group, class Network>
struct CleanRemoteArgs {
  Group group;
  Network network;
};

}  // namespace nccl_ep
