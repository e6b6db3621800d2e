// SPDX-License-Identifier: Apache-2.0
// How many tokens of all ranks each rank and each expert gets: the ranks tell each other.
#pragma once

#include "ht/counts.cuh"

namespace nccl_ep::ht {

// Some of this rank's counts, as they are sent.
template <Peers kPeers>
EP_DEVICE Unit count_unit(const Operation<kPeers>& op, const UpdateScratch& scratch, uint32_t u) {
  Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
  for (uint32_t j = 0; j < 3; ++j) {
    if (3 * u + j < op.group.layout.num_counters()) unit.word[j] = scratch.total[3 * u + j];
  }
  return unit;
}

// Sends this rank's counts to every rank of the team. All have started that are not masked. All threads of one block call
// it, and meet.
template <Peers kPeers>
EP_DEVICE void send_counts(const Operation<kPeers>& op, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  const uint32_t num_units = group.layout.count_units();
  for_each_thread(num_units * group.layout.team_size, [&](uint32_t i) {
    const uint32_t peer = team_peer(group, i / num_units), u = i % num_units;
    if (!op.reaches(peer)) return;
    dev::st_unit(group.window.at<Unit>(peer, group.layout.counts_at(group.rank, u)), count_unit(op, scratch, u));
  });
  dev::sync_block();  // the counts are about to be replaced
}

// Whose tokens a counter counts: a rank's or an expert's.
EP_DEVICE uint32_t rank_of_counter(const HtGroupState& group, uint32_t counter) {
  return counter < group.num_ranks ? counter : (counter - group.num_ranks) / group.num_local_experts;
}

// Whether this rank knows by its counts where the tokens lie that a counter counts. Across teams that go on without some ranks
// each team says so of its experts' slots, since others may know of other ranks.
template <Peers kPeers>
EP_DEVICE bool is_placed(const Operation<kPeers>& op, uint32_t counter) {
  if constexpr (kPeers != Peers::masked_teams) return true;
  return counter < op.group.num_ranks || op.group.is_in_team(rank_of_counter(op.group, counter));
}

// Waits for the counts of all ranks that `takes_part` names, as `await` does: `next` gets what the ranks before have on top,
// `total` what all have. Where each rank's rows begin here is remembered. Calls note(source, counter, before, count) for each
// count, with what the ranks before have.
template <Peers kPeers, class TakesPart, class Await, class Note>
EP_DEVICE bool add_ranks(const Operation<kPeers>& op, const HtHandle& handle, const UpdateScratch& scratch,
                         TakesPart takes_part, Await await, Note note) {
  constexpr uint32_t kBatch = 4;
  const HtGroupState& group = op.group;
  bool ok = true;
  for_each_thread(group.layout.count_units(), [&](uint32_t u) {
    uint32_t before[3] = {}, all[3] = {};
    for (uint32_t first = 0; ok && first < group.num_ranks; first += kBatch) {
      Unit units[kBatch];
      uint32_t missing = first;
      Awaited awaited{Wait::source_counts, op.deals_with(first), 0};
      ok = await(awaited, missing, [&] {
        bool arrived = true;
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          if (first + i >= group.num_ranks) continue;
          units[i] = dev::ld_unit(group.window.at<Unit>(group.rank, group.layout.counts_at(first + i, u)));
        }
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          if (first + i >= group.num_ranks || units[i].epoch == op.epoch) continue;
          if (!takes_part(first + i)) continue;
          missing = first + i;
          awaited.peer = op.deals_with(missing);
          arrived = false;
        }
        return arrived;
      });
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        if (first + i >= group.num_ranks) continue;
#pragma unroll
        for (uint32_t j = 0; j < 3; ++j) {
          if (3 * u + j == group.rank && dev::block_idx() == 0) *handle.source(first + i) = all[j];
          if (!takes_part(first + i)) continue;
          note(first + i, 3 * u + j, all[j], units[i].word[j]);
          if (first + i < group.rank) before[j] += units[i].word[j];
          all[j] += units[i].word[j];
        }
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j >= group.layout.num_counters()) continue;
      if (!goes_to(op, rank_of_counter(group, 3 * u + j), takes_part)) all[j] = scratch.total[3 * u + j] = 0;
      if (3 * u + j == group.rank && dev::block_idx() == 0) *handle.source(group.num_ranks) = all[j];
      if (3 * u + j < group.num_ranks) scratch.outgoing[3 * u + j] = {0, before[j], scratch.total[3 * u + j]};
      if (is_placed(op, 3 * u + j)) scratch.next[3 * u + j] += before[j];
      scratch.total[3 * u + j] = all[j];
    }
  });
  return ok;
}

}  // namespace nccl_ep::ht
