// SPDX-License-Identifier: Apache-2.0
// How many tokens each rank and each expert gets: of a tile, of a block, of this rank, of all ranks.
#pragma once

#include "common/token_bits.cuh"
#include "device/numeric.hpp"
#include "ht/topk.cuh"

namespace nccl_ep::ht {

// A block's shared memory.
struct UpdateScratch {
  uint32_t num_counters, num_words;
  uint32_t* next;        // [counter]: the row, or slot, of the next token
  uint32_t* total;       // [counter]: of this rank, then of all ranks
  uint32_t* wanted;      // [rank]: rows of its output, if there is room for all
  HtOutgoing* outgoing;  // [rank]
  uint32_t* bits;        // [counter][word]: the tokens of the tile
  HtQuota* quotas;       // [expert]: expert-major, on ranks without room for all
  // With masks across teams, in the place of quotas: what each rank of this team gets from this rank's guests, and where the
  // slots begin that its experts have for them.
  HtOutgoing* guest_rows;  // [other team][place]
  uint32_t* guest_slots;   // [other team][place][local expert]

  EP_DEVICE UpdateScratch(const HtUpdateArgs& args, unsigned char* shared)
      : num_counters(args.group.layout.num_all_counters()),
        num_words(args.tile_tokens / 32),
        next(reinterpret_cast<uint32_t*>(shared)),
        total(next + num_counters),
        wanted(total + num_counters),
        outgoing(reinterpret_cast<HtOutgoing*>(wanted + args.group.num_ranks)),
        bits(reinterpret_cast<uint32_t*>(outgoing + args.group.num_ranks)),
        quotas(reinterpret_cast<HtQuota*>(bits + num_counters * num_words)),
        guest_rows(reinterpret_cast<HtOutgoing*>(quotas)),
        guest_slots(reinterpret_cast<uint32_t*>(guest_rows +
                                                args.group.layout.num_other_teams() * args.group.layout.team_size)) {}
  EP_DEVICE TokenBits of(uint32_t counter) const { return {bits + counter * num_words}; }
};

// Whether all threads of the block say so. All of them call it, and meet once more before they do again.
EP_DEVICE bool all_in_block(bool mine) {
  EP_SHARED(uint32_t, some_do_not, [1]);
  if (dev::thread_idx() == 0) some_do_not[0] = 0;
  dev::sync_block();
  if (!mine) dev::st_relaxed<dev::Scope::block>(some_do_not, 1u);
  dev::sync_block();
  return some_do_not[0] == 0;
}

// The ranks that take part in an update, as participants.cuh has found out: bits in the block's shared memory, where there are
// masks.
EP_DEVICE uint32_t* participant_words() {
  EP_SHARED(uint32_t, words, [kHtMaxRanks / 32]);
  return words;
}

template <Peers kPeers>
EP_DEVICE bool takes_part(const Operation<kPeers>&, uint32_t rank) {
  if constexpr (!has_masks(kPeers)) return true;
  return participant_words()[rank / 32] >> rank % 32 & 1;
}

// Whether tokens may go to a rank: one of another team if this rank's rail peer there takes part. What it can do for them its
// team knows.
template <Peers kPeers, class TakesPart>
EP_DEVICE bool goes_to(const Operation<kPeers>& op, uint32_t rank, TakesPart takes_part) {
  if constexpr (kPeers == Peers::masked_teams) {
    const uint32_t team_size = op.group.layout.team_size;
    if (!op.group.is_in_team(rank)) rank = rank / team_size * team_size + op.group.rank % team_size;
  }
  return takes_part(rank);
}

// Calls visit(i) for each i below `count`, a thread each.
template <class Visit>
EP_DEVICE void for_each_thread(uint32_t count, Visit visit) {
  for (uint32_t i = dev::thread_idx(); i < count; i += dev::num_threads()) visit(i);
}

// A block's tokens that are looked at together.
struct Tile {
  uint32_t begin, end;

  EP_DEVICE Tile(const HtUpdateArgs& args, uint32_t i) {
    const uint64_t first = (uint64_t{dev::block_idx()} * args.tiles_per_block + i) * args.tile_tokens;
    const uint64_t last = first + args.tile_tokens;
    const uint32_t count = num_tokens(args.topk.tokens);
    begin = static_cast<uint32_t>(first < count ? first : count);
    end = static_cast<uint32_t>(last < count ? last : count);
  }
};

EP_DEVICE void write_counter(const CounterOutput& output, uint32_t i, uint64_t value) {
  if (!output.data) return;
  if (output.is_64bit) {
    static_cast<uint64_t*>(output.data)[i] = value;
  } else {
    static_cast<uint32_t*>(output.data)[i] = static_cast<uint32_t>(value);
  }
}

// Notes which tokens of the tile count where. The block meets before and after.
EP_DEVICE void fill_bits(const HtUpdateArgs& args, const UpdateScratch& scratch, const Tile& tile) {
  const HtLayout& layout = args.group.layout;
  const uint32_t num_topk = args.topk.num_topk, num_local = args.group.num_local_experts;
  const bool has_team_counters = scratch.num_counters > layout.num_counters();
  for_each_thread(scratch.num_counters * scratch.num_words, [&](uint32_t i) { scratch.bits[i] = 0; });
  dev::sync_block();
  for_each_thread((tile.end - tile.begin) * num_topk, [&](uint32_t place) {
    const uint32_t expert = load_expert(args.group, args.topk, uint64_t{tile.begin} * num_topk + place);
    if (expert == kNone) return;
    const uint32_t rank = expert / num_local, token = place / num_topk;
    scratch.of(rank).insert(token);
    scratch.of(args.group.num_ranks + expert).insert(token);
    if (has_team_counters) scratch.of(layout.team_counter(rank / layout.team_size)).insert(token);
  });
  dev::sync_block();
}

EP_DEVICE void count_block(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t epoch) {
  for_each_thread(scratch.num_counters, [&](uint32_t c) { scratch.total[c] = 0; });
  for (uint32_t i = 0; i < args.tiles_per_block; ++i) {
    fill_bits(args, scratch, Tile(args, i));
    for_each_thread(scratch.num_counters,
                    [&](uint32_t c) { scratch.total[c] += scratch.of(c).count(scratch.num_words); });
    dev::sync_block();
  }
  if (args.drops && dev::block_idx() == 0) {  // blocks that see its flag may count there
    for_each_thread(args.group.num_local_experts, [&](uint32_t i) { write_counter(args.expert_counters, i, 0); });
  }
  uint32_t* counts = args.block_counts + uint64_t{dev::block_idx()} * args.group.layout.counter_stride();
  for_each_thread(scratch.num_counters, [&](uint32_t c) { counts[c] = scratch.total[c]; });
  dev::sync_block();
  if (dev::thread_idx() == 0) dev::st_release<dev::Scope::gpu>(args.block_flags + dev::block_idx(), epoch);
}

// Some blocks' counts of four counters: what the blocks before this one have, and what all have.
EP_DEVICE void add_quad(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t first_counter,
                        uint32_t first_block, uint32_t step) {
  uint32_t before[4] = {}, all[4] = {};
#pragma unroll 8
  for (uint32_t block = first_block; block < dev::num_blocks(); block += step) {
    const uint32_t* counts = args.block_counts + uint64_t{block} * args.group.layout.counter_stride();
    const Pack pack = dev::ld(reinterpret_cast<const Pack*>(counts + first_counter));
#pragma unroll
    for (uint32_t j = 0; j < 4; ++j) {
      all[j] += pack.word[j];
      before[j] += block < dev::block_idx() ? pack.word[j] : 0;
    }
  }
#pragma unroll
  for (uint32_t j = 0; j < 4; ++j) {
    if (first_counter + j >= scratch.num_counters) continue;
    dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.next + first_counter + j, before[j]);
    dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.total + first_counter + j, all[j]);
  }
}

// Adds up the blocks of this rank: `next` gets what the blocks before have, `total` what all have. The block's threads share
// the counters and the blocks.
template <Peers kPeers>
EP_DEVICE bool add_blocks(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch) {
  bool ok = true;
  for_each_thread(dev::num_blocks(), [&](uint32_t block) {
    ok &= op.wait_for_own({Wait::block_counts, op.group.rank, block},
                          [&] { return dev::ld_acquire<dev::Scope::gpu>(args.block_flags + block) == op.epoch; });
  });
  for_each_thread(scratch.num_counters, [&](uint32_t c) { scratch.next[c] = scratch.total[c] = 0; });
  if (!all_in_block(ok)) return false;
  const uint32_t num_quads = args.group.layout.counter_stride() / 4;
  const uint32_t num_shares = num_quads < dev::num_threads() ? dev::num_threads() / num_quads : 1;
  for_each_thread(num_quads * num_shares,
                  [&](uint32_t i) { add_quad(args, scratch, i % num_quads * 4, i / num_quads, num_shares); });
  dev::sync_block();
  return true;
}

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

// Sends this rank's counts to every rank of the team: a block for each. With masks all have started that are not masked.
template <Peers kPeers>
EP_DEVICE bool send_counts(const Operation<kPeers>& op, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  bool ok = true;
  for (uint32_t i = dev::block_idx(); i < group.layout.team_size; i += dev::num_blocks()) {
    const uint32_t peer = team_peer(group, i);
    for_each_thread(group.layout.count_units(), [&](uint32_t u) {
      if (!ok) return;
      if (!Operation<kPeers>::kMasks && !op.await_peer(peer)) {
        ok = false;
        return;
      }
      if (!op.reaches(peer)) return;
      dev::st_unit(group.window.at<Unit>(peer, group.layout.counts_at(group.rank, u)), count_unit(op, scratch, u));
    });
  }
  return ok;
}

// Whose tokens a counter counts: a rank's or an expert's.
EP_DEVICE uint32_t rank_of_counter(const HtGroupState& group, uint32_t counter) {
  return counter < group.num_ranks ? counter : (counter - group.num_ranks) / group.num_local_experts;
}

// Whether this rank says where the tokens lie that a counter counts. Across teams that go on without some ranks each team says
// so of its experts' slots, since others may know of other ranks: they number their own tokens alone.
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
