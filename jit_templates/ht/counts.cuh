// SPDX-License-Identifier: Apache-2.0
// How many tokens each rank and each expert gets: of a tile, of a block, of this rank.
#pragma once

#include "common/token_bits.cuh"
#include "device/numeric.hpp"
#include "ht/topk.cuh"

namespace nccl_ep::ht {

// A block's shared memory.
struct UpdateScratch {
  uint32_t num_counters, num_units, num_words;  // a unit: of a block's counts
  uint32_t* next;                               // [counter]: the row, or slot, of the next token
  uint32_t* total;                              // [counter]: of this rank, then of all ranks
  uint32_t* wanted;                             // [rank]: rows of its output, if there is room for all
  HtOutgoing* outgoing;                         // [rank]
  uint32_t* bits;                               // [counter][word]: the tokens of the tile
  HtQuota* quotas;                              // [expert]: expert-major, on ranks without room for all
  // With masks across teams: what each rank of this team gets from this rank's guests, and where the slots begin that its
  // experts have for them.
  HtOutgoing* guest_rows;  // [other team][place]
  uint32_t* guest_slots;   // [other team][place][local expert]

  EP_DEVICE UpdateScratch(const HtUpdateArgs& args, unsigned char* shared)
      : num_counters(args.group.layout.num_all_counters()),
        num_units(args.group.layout.block_count_units()),
        num_words(args.tile_tokens / 32),
        next(reinterpret_cast<uint32_t*>(shared)),
        total(next + num_counters),
        wanted(total + num_counters),
        outgoing(reinterpret_cast<HtOutgoing*>(wanted + args.group.num_ranks)),
        bits(reinterpret_cast<uint32_t*>(outgoing + args.group.num_ranks)),
        quotas(reinterpret_cast<HtQuota*>(bits + num_counters * num_words)),
        guest_rows(reinterpret_cast<HtOutgoing*>(quotas + (args.drops ? args.group.layout.num_experts : 0))),
        guest_slots(reinterpret_cast<uint32_t*>(guest_rows +
                                                args.group.layout.num_other_teams() * args.group.layout.team_size)) {}
  EP_DEVICE TokenBits of(uint32_t counter) const { return {bits + counter * num_words}; }
};

// The ranks that take part in an update, as participants.cuh has found out: bits in the block's shared memory, where there are
// masks.
EP_DEVICE uint32_t* participant_words() {
  EP_SHARED(uint32_t, words, [kMaxRanks / 32]);
  return words;
}

template <Peers kPeers>
EP_DEVICE bool takes_part(const Operation<kPeers>&, uint32_t rank) {
  if constexpr (!has_masks(kPeers)) return true;
  return participant_words()[rank / 32] >> rank % 32 & 1;
}

template <Peers kPeers>
EP_DEVICE uint32_t num_participant_words(const Operation<kPeers>& op) {
  return static_cast<uint32_t>(div_up(op.group.num_ranks, 32));
}

// Whether all do. All threads of the block find the same.
template <Peers kPeers>
EP_DEVICE bool all_take_part(const Operation<kPeers>& op) {
  if constexpr (!has_masks(kPeers)) return true;
  bool all = true;
  for (uint32_t i = 0; i < num_participant_words(op); ++i) all = all && participant_words()[i] == ~0u;
  return all;
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

// Calls visit(i) for each i below `count`, a thread each. An update runs through its code once, so it is as fast as that is
// fetched: short loops are better than long pieces of them.
template <class Visit>
EP_DEVICE void for_each_thread(uint32_t count, Visit visit) {
#pragma unroll 1
  for (uint32_t i = dev::thread_idx(); i < count; i += dev::num_threads()) visit(i);
}

// The first block has none if there is an SM left for it.
EP_DEVICE bool has_tokens(const HtUpdateArgs& args) { return dev::block_idx() >= args.first_block; }

// A block's tokens that are looked at together.
struct Tile {
  uint32_t begin, end;

  EP_DEVICE Tile(const HtUpdateArgs& args, uint32_t i) {
    const uint64_t block = dev::block_idx() - args.first_block;
    const uint64_t first = (block * args.tiles_per_block + i) * args.tile_tokens;
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

// Notes which tokens of the tile count where. The block meets before and after. Its first places are on their way before.
EP_DEVICE void fill_bits(const HtUpdateArgs& args, const UpdateScratch& scratch, const Tile& tile) {
  const HtLayout& layout = args.group.layout;
  const uint32_t num_topk = args.topk.num_topk, num_local = args.group.num_local_experts;
  const uint32_t num_places = (tile.end - tile.begin) * num_topk;
  const bool has_team_counters = scratch.num_counters > layout.num_counters();
  const auto load = [&](uint32_t place) {
    if (place >= num_places) return kNone;
    return load_expert(args.group, args.topk, tile.begin * num_topk + place);
  };
  const auto count = [&](uint32_t expert, uint32_t token) {
    const uint32_t rank = expert / num_local;
    scratch.of(rank).insert(token);
    scratch.of(args.group.num_ranks + expert).insert(token);
    if (has_team_counters) scratch.of(layout.team_counter(rank / layout.team_size)).insert(token);
  };
  uint32_t place = dev::thread_idx(), expert = load(place);
  for_each_thread(scratch.num_counters * scratch.num_words, [&](uint32_t i) { scratch.bits[i] = 0; });
  dev::sync_block();
#pragma unroll 1
  while (place < num_places) {
    if (expert != kNone) count(expert, place / num_topk);
    place += dev::num_threads();
    expert = load(place);
  }
  dev::sync_block();
}

// The j-th count of a unit of a block's counts.
constexpr uint32_t kBlockCounts = HtLayout::kBlockCountsPerUnit;
EP_DEVICE void put_count(Unit& unit, uint32_t j, uint32_t count) {
  unit.word[j / 2] |= count << j % 2 * HtLayout::kBlockCountBits;
}
EP_DEVICE uint32_t count_of(const Unit& unit, uint32_t j) {
  return unit.word[j / 2] >> j % 2 * HtLayout::kBlockCountBits & HtLayout::kMaxBlockTokens;
}

// Calls visit(j, counter) for the counters of a unit of a block's counts.
template <class Visit>
EP_DEVICE void for_each_counter(const UpdateScratch& scratch, uint32_t u, Visit visit) {
#pragma unroll
  for (uint32_t j = 0; j < kBlockCounts; ++j) {
    const uint32_t counter = kBlockCounts * u + j;
    if (counter < scratch.num_counters) visit(j, counter);
  }
}

// Counts this block's tokens in `next`. All threads of the block call it, and meet.
EP_DEVICE void count_tiles(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  for_each_thread(scratch.num_counters, [&](uint32_t c) { scratch.next[c] = 0; });
  for (uint32_t i = 0; i < args.tiles_per_block; ++i) {
    fill_bits(args, scratch, Tile(args, i));
    for_each_thread(scratch.num_counters,
                    [&](uint32_t c) { scratch.next[c] += scratch.of(c).count(scratch.num_words); });
    dev::sync_block();
  }
}

EP_DEVICE Unit* block_counts(const HtUpdateArgs& args, uint32_t block, uint32_t u) {
  return args.block_counts + uint64_t{block} * args.group.layout.block_count_units() + u;
}

// Tells the blocks of this rank what this one has counted.
template <Peers kPeers>
EP_DEVICE void tell_blocks(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch) {
  for_each_thread(scratch.num_units, [&](uint32_t u) {
    Unit unit{{0, 0, 0}, op.epoch};
    for_each_counter(scratch, u, [&](uint32_t j, uint32_t c) { put_count(unit, j, scratch.next[c]); });
    dev::st_unit(block_counts(args, dev::block_idx(), u), unit);
  });
}

// Waits for some blocks' counts of a unit and adds them up: what the blocks before this one have, and what all have.
template <Peers kPeers>
EP_DEVICE bool add_unit(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t u,
                        uint32_t first_block, uint32_t step) {
  constexpr uint32_t kBatch = 3;
  uint32_t before[kBlockCounts] = {}, all[kBlockCounts] = {};
#pragma unroll 1
  for (uint32_t first = first_block; first < dev::num_blocks(); first += kBatch * step) {
    Unit units[kBatch];
    Awaited awaited{Wait::block_counts, op.group.rank, first};
    const bool ok = op.wait_for_own(awaited, [&] {
      bool arrived = true;
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        if (first + i * step < dev::num_blocks()) units[i] = dev::ld_unit(block_counts(args, first + i * step, u));
      }
#pragma unroll
      for (uint32_t i = 0; i < kBatch; ++i) {
        if (first + i * step >= dev::num_blocks() || units[i].epoch == op.epoch) continue;
        awaited.token = first + i * step;
        arrived = false;
      }
      return arrived;
    });
    if (!ok) return false;
#pragma unroll
    for (uint32_t i = 0; i < kBatch; ++i) {
      if (first + i * step >= dev::num_blocks()) continue;
#pragma unroll
      for (uint32_t j = 0; j < kBlockCounts; ++j) {
        const uint32_t count = count_of(units[i], j);
        all[j] += count;
        before[j] += first + i * step < dev::block_idx() ? count : 0;
      }
    }
  }
  for_each_counter(scratch, u, [&](uint32_t j, uint32_t c) {
    dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.next + c, before[j]);
    dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.total + c, all[j]);
  });
  return true;
}

// Waits until those have started that this block must know of before it sends counts. One warp calls it.
template <Peers kPeers, class OtherTeams>
EP_DEVICE bool await_starts(const Operation<kPeers>& op, const OtherTeams& others) {
  const uint32_t team_size = op.group.layout.team_size, num_rails = has_masks(kPeers) ? others.num_rails() : 0;
  if (dev::block_idx() >= (has_masks(kPeers) ? others.num_senders() : 1)) return true;
  bool ok = true;
  for (uint32_t i = dev::lane_idx(); i < team_size + num_rails; i += 32) {
    ok &= i < team_size ? op.await_peer(team_peer(op.group, i)) : others.await_peer(op, i - team_size);
  }
  return ok || has_masks(kPeers);  // which goes on without those that are lost
}

// Adds up the blocks of this rank: `next` gets what the blocks before have, `total` what all have. The block's threads, which
// have met since it told its own, share the units and the blocks, and meet; meanwhile the last warp waits for others to start.
template <Peers kPeers, class OtherTeams>
EP_DEVICE bool add_blocks(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                          const OtherTeams& others) {
  const uint32_t num_units = scratch.num_units;
  const uint32_t num_shares = num_units < dev::num_threads() ? dev::num_threads() / num_units : 1;
  for_each_thread(scratch.num_counters, [&](uint32_t c) { scratch.next[c] = scratch.total[c] = 0; });
  dev::sync_block();
  bool ok = dev::warp_idx() + 1 != dev::num_warps() || await_starts(op, others);
  for_each_thread(num_units * num_shares, [&](uint32_t i) {
    ok = ok && add_unit(op, args, scratch, i % num_units, args.first_block + i / num_units, num_shares);
  });
  return dev::all_in_block(ok);
}

}  // namespace nccl_ep::ht
