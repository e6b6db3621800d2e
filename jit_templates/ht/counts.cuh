// SPDX-License-Identifier: Apache-2.0
// How many tokens each rank and each expert gets: of a tile, of a block, of this rank, of all ranks.
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
  // With masks across teams, in the place of quotas: what each rank of this team gets from this rank's guests, and where the
  // slots begin that its experts have for them.
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
        guest_rows(reinterpret_cast<HtOutgoing*>(quotas)),
        guest_slots(reinterpret_cast<uint32_t*>(guest_rows +
                                                args.group.layout.num_other_teams() * args.group.layout.team_size)) {}
  EP_DEVICE TokenBits of(uint32_t counter) const { return {bits + counter * num_words}; }
};

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

// Calls visit(j, counter) for the counters of a unit of a block's counts.
template <class Visit>
EP_DEVICE void for_each_counter(const UpdateScratch& scratch, uint32_t u, Visit visit) {
#pragma unroll
  for (uint32_t j = 0; j < 6; ++j) {
    if (6 * u + j < scratch.num_counters) visit(j, 6 * u + j);
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
    for_each_counter(scratch, u, [&](uint32_t j, uint32_t c) { unit.word[j / 2] |= scratch.next[c] << j % 2 * 16; });
    dev::st_unit(block_counts(args, dev::block_idx(), u), unit);
  });
}

// Waits for some blocks' counts of a unit and adds them up: what the blocks before this one have, and what all have.
template <Peers kPeers>
EP_DEVICE bool add_unit(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t u,
                        uint32_t first_block, uint32_t step) {
  constexpr uint32_t kBatch = 3;
  uint32_t before[6] = {}, all[6] = {};
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
      for (uint32_t j = 0; j < 6; ++j) {
        const uint32_t count = units[i].word[j / 2] >> j % 2 * 16 & 0xffff;
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

// Sends this rank's counts to every rank of the team. All have started that are not masked. All threads of one block call it, and
// meet.
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
