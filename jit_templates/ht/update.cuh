// SPDX-License-Identifier: Apache-2.0
// UpdateHandle for High Throughput: who sends how much to whom, and where each row will lie, in one launch.
//
// Parties: each rank counts its tokens for every rank and every expert, sends the counts to all, and waits for theirs. Then
// it knows the final row of each of its tokens on each rank, and tells the receivers what they must know of each row.
// Each block has consecutive tokens, so rows lie by (source rank, token); all blocks run at a time, and tell each other
// their counts. What a rank has no room for is thinned out, or a fault. Memory: counts and records of the windows, the
// handle's memory. Waits: for blocks, for peers, for records.
#pragma once

#include "common/token_bits.cuh"
#include "device/numeric.hpp"
#include "ht/topk.cuh"

namespace nccl_ep::ht {

constexpr uint32_t kUpdateWarps = kHtUpdateThreads / 32;

// A block's shared memory.
struct UpdateScratch {
  uint32_t num_counters, num_words;
  uint32_t* next;        // [counter]: the row, or slot, of the next token
  uint32_t* total;       // [counter]: of this rank, then of all ranks
  uint32_t* wanted;      // [rank]: rows of its output, if there is room for all
  HtOutgoing* outgoing;  // [rank]
  uint32_t* bits;        // [counter][word]: the tokens of the tile
  HtQuota* quotas;       // [expert]: expert-major, on ranks without room for all

  EP_DEVICE UpdateScratch(const HtUpdateArgs& args, unsigned char* shared)
      : num_counters(args.group.layout.num_counters()),
        num_words(args.tile_tokens / 32),
        next(reinterpret_cast<uint32_t*>(shared)),
        total(next + num_counters),
        wanted(total + num_counters),
        outgoing(reinterpret_cast<HtOutgoing*>(wanted + args.group.num_ranks)),
        bits(reinterpret_cast<uint32_t*>(outgoing + args.group.num_ranks)),
        quotas(reinterpret_cast<HtQuota*>(bits + num_counters * num_words)) {}
  EP_DEVICE TokenBits of(uint32_t counter) const { return {bits + counter * num_words}; }
};

// So many of some things that there is no room for: evenly spread over them, in their order.
struct Thinning {
  uint32_t total, room;

  // How many of the first `count` are kept.
  EP_DEVICE uint32_t kept(uint32_t count) const {
    return total <= room ? count : static_cast<uint32_t>(uint64_t{count} * room / total);
  }
  // Whether the i-th is: kept(i) != kept(i + 1).
  EP_DEVICE bool keeps(uint32_t i) const { return total <= room || uint64_t{i} * room % total + room >= total; }
};

// Whether a rank whose output would have so many rows gets fewer.
EP_DEVICE bool is_thinned(const HtUpdateArgs& args, uint32_t wanted) { return args.drops && wanted > args.max_slots; }

// Whether all threads of the block say so. All of them call it.
EP_DEVICE bool all_in_block(bool mine) {
  EP_SHARED(uint32_t, some_do_not, [1]);
  if (dev::thread_idx() == 0) some_do_not[0] = 0;
  dev::sync_block();
  if (!mine) dev::st_relaxed<dev::Scope::block>(some_do_not, 1u);
  dev::sync_block();
  const bool all = some_do_not[0] == 0;
  dev::sync_block();  // the next call may change it
  return all;
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
    begin = static_cast<uint32_t>(first < args.topk.num_tokens ? first : args.topk.num_tokens);
    end = static_cast<uint32_t>(last < args.topk.num_tokens ? last : args.topk.num_tokens);
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
  const uint32_t num_topk = args.topk.num_topk, num_local = args.group.num_local_experts;
  for_each_thread(scratch.num_counters * scratch.num_words, [&](uint32_t i) { scratch.bits[i] = 0; });
  dev::sync_block();
  for_each_thread((tile.end - tile.begin) * num_topk, [&](uint32_t place) {
    const uint32_t expert = load_expert(args.group, args.topk, uint64_t{tile.begin} * num_topk + place);
    if (expert == kNone) return;
    scratch.of(expert / num_local).insert(place / num_topk);
    scratch.of(args.group.num_ranks + expert).insert(place / num_topk);
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
EP_DEVICE bool add_blocks(const Operation& op, const HtUpdateArgs& args, const UpdateScratch& scratch) {
  bool ok = true;
  for_each_thread(dev::num_blocks(), [&](uint32_t block) {
    ok &= wait_for(op.group, op.epoch, {Wait::block_counts, op.group.rank, block},
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

// Sends this rank's counts to every rank: a block for each.
EP_DEVICE bool send_counts(const Operation& op, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  bool ok = true;
  for (uint32_t i = dev::block_idx(); i < group.num_ranks; i += dev::num_blocks()) {
    const uint32_t peer = peer_of(op.group, i);
    for_each_thread(group.layout.count_units(), [&](uint32_t u) {
      if (!ok || !(ok = op.await_peer(peer))) return;
      Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) {
        if (3 * u + j < scratch.num_counters) unit.word[j] = scratch.total[3 * u + j];
      }
      dev::st_unit(group.window.at<Unit>(peer, group.layout.counts_at(group.rank, u)), unit);
    });
  }
  return ok;
}

// Waits for the counts of all ranks: `next` gets what the ranks before have on top, `total` what all have. Where each
// rank's rows begin here is remembered.
EP_DEVICE bool add_ranks(const Operation& op, const HtHandle& handle, const UpdateScratch& scratch) {
  constexpr uint32_t kBatch = 4;
  const HtGroupState& group = op.group;
  bool ok = true;
  for_each_thread(group.layout.count_units(), [&](uint32_t u) {
    uint32_t before[3] = {}, all[3] = {};
    for (uint32_t first = 0; ok && first < group.num_ranks; first += kBatch) {
      Unit units[kBatch];
      Awaited awaited{Wait::source_counts, first, 0};
      ok = wait_for(group, op.epoch, awaited, [&] {
        bool arrived = true;
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          if (first + i >= group.num_ranks) continue;
          units[i] = dev::ld_unit(group.window.at<Unit>(group.rank, group.layout.counts_at(first + i, u)));
        }
#pragma unroll
        for (uint32_t i = 0; i < kBatch; ++i) {
          if (first + i >= group.num_ranks || units[i].epoch == op.epoch) continue;
          awaited.peer = first + i;
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
          if (first + i < group.rank) before[j] += units[i].word[j];
          all[j] += units[i].word[j];
        }
      }
    }
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j >= scratch.num_counters) continue;
      if (3 * u + j == group.rank && dev::block_idx() == 0) *handle.source(group.num_ranks) = all[j];
      if (3 * u + j < group.num_ranks) scratch.outgoing[3 * u + j] = {0, before[j], scratch.total[3 * u + j]};
      scratch.next[3 * u + j] += before[j];
      scratch.total[3 * u + j] = all[j];
    }
  });
  return ok;
}

// Flat: what is left of the rows for each rank.
EP_DEVICE void thin_rows(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const uint32_t num_ranks = args.group.num_ranks, room = static_cast<uint32_t>(args.max_slots);
  for_each_thread(num_ranks, [&](uint32_t rank) {
    HtOutgoing& outgoing = scratch.outgoing[rank];
    const Thinning rows{scratch.total[rank], room};
    const uint32_t end = rows.kept(outgoing.row + outgoing.num_rows);
    outgoing.row = rows.kept(outgoing.row);
    outgoing.num_rows = end - outgoing.row;
  });
  const Thinning own{scratch.total[args.group.rank], room};
  for_each_thread(dev::block_idx() == 0 ? num_ranks + 1 : 0,
                  [&](uint32_t source) { *args.handle.source(source) = own.kept(*args.handle.source(source)); });
  dev::sync_block();
}

// Where the rows for each rank begin among those that this rank sends. What it is for another block is no different.
EP_DEVICE void find_outgoing(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  for_each_thread(args.group.num_ranks, [&](uint32_t rank) {
    HtOutgoing& outgoing = scratch.outgoing[rank];
    for (uint32_t before = 0; before < rank; ++before) outgoing.first += scratch.outgoing[before].num_rows;
    if (dev::block_idx() == 0) *args.handle.outgoing(rank) = outgoing;
  });
}

// Calls visit(local, zone) for each of a rank's experts, a lane for each, as if there were room for all. Returns how many
// slots that makes: padding makes a multiple of the alignment of every expert's rows. The whole warp calls it.
template <bool kExpertMajor, class Visit>
EP_DEVICE uint32_t for_each_zone(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t rank, Visit visit) {
  const uint32_t num_local = args.group.num_local_experts, alignment = args.alignment;
  uint32_t end = 0;
  for (uint32_t first = 0; first < num_local; first += 32) {
    const uint32_t local = first + dev::lane_idx();
    const uint32_t tokens = local < num_local ? scratch.total[args.group.num_ranks + rank * num_local + local] : 0;
    const uint32_t padded = kExpertMajor ? (tokens + alignment - 1) / alignment * alignment : tokens;
    const uint32_t begin = end + scan_warp(padded) - padded;
    end = dev::shfl(begin + padded, 31);
    if (local < num_local) visit(local, HtZone{begin, tokens, padded});
  }
  return end;
}

// Remembers one of this rank's experts, and counts it for the caller.
EP_DEVICE void report_zone(const HtUpdateArgs& args, uint32_t local, const HtZone& zone) {
  *args.handle.zone(local) = zone;
  write_counter(args.expert_counters, local, zone.num_slots);
  write_counter(args.expert_offsets, local, zone.begin);
}

// Expert-major: shares a rank's slots out among its experts, which want so many, in whole alignments. The whole warp calls it.
EP_DEVICE void thin_zones(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t rank, uint32_t wanted,
                          bool reports) {
  const uint32_t alignment = args.alignment;
  const Thinning blocks{wanted / alignment, static_cast<uint32_t>(args.max_slots / alignment)};
  for_each_zone<true>(args, scratch, rank, [&](uint32_t local, const HtZone& all) {
    const uint32_t expert = rank * args.group.num_local_experts + local;
    const uint32_t begin = blocks.kept(all.begin / alignment) * alignment;
    const uint32_t room = blocks.kept((all.begin + all.num_slots) / alignment) * alignment - begin;
    scratch.quotas[expert] = {begin, room};
    scratch.next[args.group.num_ranks + expert] -= all.begin;  // among the expert's tokens
    if (reports) report_zone(args, local, {begin, all.num_rows < room ? all.num_rows : room, room});
  });
}

// Tells the caller how many rows this rank's output has.
template <bool kExpertMajor>
EP_DEVICE void report_totals(const HtUpdateArgs& args, uint32_t num_rows, uint32_t wanted) {
  const uint32_t room = static_cast<uint32_t>(args.max_slots) / args.alignment * args.alignment;
  const uint32_t slots = is_thinned(args, wanted) ? room : wanted;
  const HtTotals totals{kExpertMajor ? num_rows : slots, slots};
  write_counter(args.recv_total, 0, wanted);
  *args.handle.totals() = totals;
}

// Tells the host, when nobody waits any more: its memory is far away.
EP_DEVICE void tell_host(const HtUpdateArgs& args) {
  if (dev::block_idx() != 0 || dev::thread_idx() != 0) return;
  args.host_totals->totals = *args.handle.totals();
  dev::st_release<dev::Scope::system>(&args.host_totals->update, args.update);
}

// How many rows each rank's output has and, expert-major, where each expert's slots begin: a warp for each rank.
template <bool kExpertMajor>
EP_DEVICE void find_zones(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const HtGroupState& group = args.group;
  for (uint32_t rank = dev::warp_idx(); rank < group.num_ranks; rank += dev::num_warps()) {
    const bool reports = rank == group.rank && dev::block_idx() == 0;
    uint32_t wanted = scratch.total[rank];
    // Flat, what experts keep of too many rows is counted when the records come.
    if (kExpertMajor || (reports && !is_thinned(args, wanted))) {
      const uint32_t end = for_each_zone<kExpertMajor>(args, scratch, rank, [&](uint32_t local, const HtZone& zone) {
        const uint32_t counter = group.num_ranks + rank * group.num_local_experts + local;
        if (kExpertMajor) scratch.next[counter] += zone.begin;
        if (reports) report_zone(args, local, zone);
      });
      if (kExpertMajor) wanted = end;
    }
    if (kExpertMajor && is_thinned(args, wanted)) thin_zones(args, scratch, rank, wanted, reports);
    if (dev::lane_idx() != 0) continue;
    scratch.wanted[rank] = wanted;
    if (reports) report_totals<kExpertMajor>(args, scratch.total[rank], wanted);
  }
  dev::sync_block();
}

// Whether every rank's output has room. All ranks find the same. Where nothing is dropped, it is a fault if not.
EP_DEVICE bool fits(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t epoch) {
  bool fits = true;
  for_each_thread(args.group.num_ranks, [&](uint32_t rank) {
    if (args.max_slots == 0 || scratch.wanted[rank] <= args.max_slots) return;
    fits = false;
    if (args.drops) return;
    report(args.group, {FaultRecord::kOverflow, Wait::none, 0, rank, static_cast<uint32_t>(args.max_slots), epoch,
                        scratch.wanted[rank]});
  });
  return all_in_block(fits);
}

// Tells a rank what it must know of a row: where it comes from, and its hits.
EP_DEVICE void send_record(const Operation& op, const HtDest& dest, uint32_t token, uint32_t dest_idx,
                           const uint32_t* hits) {
  const HtGroupState& group = op.group;
  const auto unit = [&](uint32_t i) { return group.window.at<Unit>(dest.rank, group.layout.record_at(dest.row, i)); };
  dev::st_unit(unit(0), Unit{{group.rank | uint32_t{dest.num_hits} << 16 | dest_idx << 24, token, hits[0]}, op.epoch});
  for (uint32_t hit = 1; hit < dest.num_hits; hit += 3) {
    Unit more{{0, 0, 0}, op.epoch};
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (hit + j < dest.num_hits) more.word[j] = hits[hit + j];
    }
    dev::st_unit(unit(1 + hit / 3), more);
  }
}

// Where a token of the tile lies on each rank.
template <bool kExpertMajor>
struct Placement {
  const HtUpdateArgs& args;
  const UpdateScratch& scratch;
  bool thins;  // some rank
  uint32_t in_tile;

  EP_DEVICE bool is_kept(uint32_t expert, uint32_t rank) const {
    if (!thins || !is_thinned(args, scratch.wanted[rank])) return true;
    if (kExpertMajor) return slots(expert).keeps(number(args.group.num_ranks + expert));
    return rows(rank).keeps(number(rank));
  }
  EP_DEVICE uint32_t row(uint32_t rank) const {
    return thins && !kExpertMajor ? rows(rank).kept(number(rank)) : number(rank);
  }
  // Expert-major, if it is kept.
  EP_DEVICE uint32_t slot(uint32_t expert, uint32_t rank) const {
    const uint32_t mine = number(args.group.num_ranks + expert);
    if (!thins || !is_thinned(args, scratch.wanted[rank])) return mine;
    return scratch.quotas[expert].begin + slots(expert).kept(mine);
  }

 private:
  EP_DEVICE uint32_t number(uint32_t counter) const {
    return scratch.next[counter] + scratch.of(counter).count_before(in_tile);
  }
  EP_DEVICE Thinning rows(uint32_t rank) const { return {scratch.total[rank], static_cast<uint32_t>(args.max_slots)}; }
  EP_DEVICE Thinning slots(uint32_t expert) const {
    return {scratch.total[args.group.num_ranks + expert], scratch.quotas[expert].room};
  }
};

// Gives a token of the tile its rows, remembers them, and tells the receivers. The whole warp calls it.
template <bool kExpertMajor>
EP_DEVICE void place_token(const Operation& op, const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t token,
                           const Placement<kExpertMajor>& placement) {
  EP_SHARED(uint32_t, staged_hits, [kUpdateWarps][kHtMaxTopk]);
  uint32_t* hits = staged_hits[dev::warp_idx()];
  const HtGroupState& group = op.group;
  const TokenHits found(group, args.topk, token,
                        [&](uint32_t expert, uint32_t rank) { return placement.is_kept(expert, rank); });
#pragma unroll
  for (uint32_t i = 0; i < TokenHits::kPerLane; ++i) {
    const uint32_t k = 32 * i + dev::lane_idx();
    if (k >= args.topk.num_topk) continue;
    *args.handle.place(token, k) = found.is_hit[i] ? static_cast<uint8_t>(found.hit[i]) : HtHandleLayout::kNoHit;
    if (!found.is_hit[i]) continue;
    const uint32_t hit = kExpertMajor ? placement.slot(found.expert[i], found.rank[i])
                                      : found.expert[i] - found.rank[i] * group.num_local_experts;
    dev::st_relaxed<dev::Scope::block>(hits + found.hit[i], hit);  // all places of an expert write the same
  }
  if (dev::lane_idx() == 0) *args.handle.num_dests(token) = static_cast<uint8_t>(found.num_dests);
  dev::sync_warp();
#pragma unroll
  for (uint32_t i = 0; i < TokenHits::kPerLane; ++i) {
    const bool is_dest = found.num_hits[i] > 0;
    if (!found.leads[i] || !(kExpertMajor || is_dest)) continue;
    const uint32_t rank = found.rank[i];
    HtDest dest{};
    dest.rank = static_cast<uint16_t>(rank);
    dest.row = placement.row(rank);
    dest.first_hit = static_cast<uint8_t>(found.hit[i]);
    dest.num_hits = static_cast<uint8_t>(found.num_hits[i]);
    if (is_dest) *args.handle.dest(token, found.dest[i]) = dest;
    const HtOutgoing& outgoing = scratch.outgoing[rank];
    const uint32_t slot = !is_dest ? HtHandleLayout::kNoSlot : kExpertMajor ? hits[found.hit[i]] : dest.row;
    *args.handle.send(outgoing.first + (dest.row - outgoing.row)) = {token, slot};
    send_record(op, dest, token, found.dest[i], hits + found.hit[i]);
  }
  dev::sync_warp();  // the hits are about to be replaced
}

template <bool kExpertMajor>
EP_DEVICE void place_tokens(const Operation& op, const HtUpdateArgs& args, const UpdateScratch& scratch, bool thins) {
  for (uint32_t i = 0; i < args.tiles_per_block; ++i) {
    const Tile tile(args, i);
    if (args.tiles_per_block > 1) fill_bits(args, scratch, tile);
    for (uint32_t token = tile.begin + dev::warp_idx(); token < tile.end; token += dev::num_warps()) {
      place_token<kExpertMajor>(op, args, scratch, token, {args, scratch, thins, token - tile.begin});
    }
    dev::sync_block();
    if (i + 1 == args.tiles_per_block) return;
    for_each_thread(scratch.num_counters,
                    [&](uint32_t c) { scratch.next[c] += scratch.of(c).count(scratch.num_words); });
    dev::sync_block();
  }
}

// Waits for the records of this rank's rows and remembers them: a thread for each row. Flat, they say which tokens are left
// if some are not.
template <bool kExpertMajor>
EP_DEVICE void receive_records(const Operation& op, const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  const bool thinned = !kExpertMajor && is_thinned(args, scratch.wanted[group.rank]);
  const uint32_t num_rows = thinned ? static_cast<uint32_t>(args.max_slots) : scratch.total[group.rank];
  auto* counters = thinned ? static_cast<uint32_t*>(args.expert_counters.data) : nullptr;
  const auto note = [&](uint32_t row, uint32_t i, uint32_t hit) {
    *args.handle.hit(row, i) = hit;
    if (counters) dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(counters + hit, 1u);
  };
  const auto get = [&](uint32_t row, uint32_t i, Unit& unit) {
    return op.wait_for_unit({Wait::row_record, group.rank, row},
                            group.window.at<Unit>(group.rank, group.layout.record_at(row, i)), unit);
  };
  const uint32_t first = dev::block_idx() * dev::num_threads() + dev::thread_idx();
  for (uint32_t row = first; row < num_rows; row += dev::num_blocks() * dev::num_threads()) {
    Unit unit;
    if (!get(row, 0, unit)) return;
    const uint32_t num_hits = unit.word[0] >> 16 & 0xff;
    *args.handle.home(row) = {static_cast<uint16_t>(unit.word[0]), static_cast<uint8_t>(unit.word[0] >> 24),
                              static_cast<uint8_t>(num_hits), unit.word[1]};
    note(row, 0, unit.word[2]);
    for (uint32_t hit = 1; hit < num_hits; ++hit) {
      if (hit % 3 == 1 && !get(row, 1 + hit / 3, unit)) return;
      note(row, hit, unit.word[(hit - 1) % 3]);
    }
  }
}

template <bool kExpertMajor>
EP_DEVICE void update(const HtUpdateArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  const UpdateScratch scratch(args, shared);
  const Start start = begin(args.group);
  const Operation op{{args.group, start.epoch}};
  if (start.ready) {
    count_block(args, scratch, op.epoch);
    bool ok = add_blocks(op, args, scratch);
    if (ok) ok = all_in_block(send_counts(op, scratch) && add_ranks(op, args.handle, scratch));
    if (ok) {
      if (!kExpertMajor && args.drops) thin_rows(args, scratch);
      find_outgoing(args, scratch);
      find_zones<kExpertMajor>(args, scratch);
      const bool all_fit = fits(args, scratch, op.epoch);
      if (all_fit || args.drops) {
        place_tokens<kExpertMajor>(op, args, scratch, !all_fit);
        receive_records<kExpertMajor>(op, args, scratch);
        tell_host(args);
      }
    }
  }
  finish(op);
}

}  // namespace nccl_ep::ht
