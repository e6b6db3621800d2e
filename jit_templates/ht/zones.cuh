// SPDX-License-Identifier: Apache-2.0
// From the counts of all ranks: what goes to each rank, where each expert's slots begin, and what is left of it all where
// there is no room.
#pragma once

#include "ht/rank_counts.cuh"

namespace nccl_ep::ht {

// So many of some things that there is no room for: evenly spread over them, in their order.
struct Thinning {
  uint32_t total, room;

  // How many of the first `count` are kept.
  EP_DEVICE uint32_t kept(uint32_t count) const {
    return total <= room ? count : static_cast<uint32_t>(uint64_t{count} * room / total);
  }
  // What is left of some that lie one behind the other.
  EP_DEVICE void thin(HtOutgoing& rows) const {
    const uint32_t end = kept(rows.row + rows.num_rows);
    rows.row = kept(rows.row);
    rows.num_rows = end - rows.row;
  }
  // Whether the i-th is: kept(i) != kept(i + 1).
  EP_DEVICE bool keeps(uint32_t i) const { return total <= room || uint64_t{i} * room % total + room >= total; }
};

// Whether a rank whose output would have so many rows gets fewer.
EP_DEVICE bool is_thinned(const HtUpdateArgs& args, uint32_t wanted) { return args.drops && wanted > args.max_slots; }

// Flat: the rows on a rank.
EP_DEVICE Thinning rows_on(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t rank) {
  return {scratch.total[rank], static_cast<uint32_t>(args.max_slots)};
}

// Flat: what is left of the rows for each rank.
EP_DEVICE void thin_rows(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const uint32_t num_ranks = args.group.num_ranks;
  for_each_thread(num_ranks, [&](uint32_t rank) { rows_on(args, scratch, rank).thin(scratch.outgoing[rank]); });
  const Thinning own = rows_on(args, scratch, args.group.rank);
  for_each_thread(dev::block_idx() == 0 ? num_ranks + 1 : 0,
                  [&](uint32_t source) { *args.handle.source(source) = own.kept(*args.handle.source(source)); });
  dev::sync_block();
}

// Where the rows for each rank begin among those that this rank sends to its team. What it is for another block is no
// different.
EP_DEVICE void find_outgoing(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const HtGroupState& group = args.group;
  for_each_thread(group.num_ranks, [&](uint32_t rank) {
    HtOutgoing& outgoing = scratch.outgoing[rank];
    const uint32_t first_rank = rank - rank % group.layout.team_size;
#pragma unroll 1
    for (uint32_t before = first_rank; before < rank; ++before) outgoing.first += scratch.outgoing[before].num_rows;
    if (dev::block_idx() == 0 && group.is_in_team(rank)) *args.handle.outgoing(rank) = outgoing;
  });
}

// Calls visit(local, zone) for each of a rank's experts, a lane for each, as if there were room for all. Returns how many
// slots that makes: padding makes a multiple of the alignment of every expert's rows. The whole warp calls it.
template <bool kExpertMajor, class Visit>
EP_DEVICE uint32_t for_each_zone(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t rank, Visit visit) {
  const uint32_t num_local = args.group.num_local_experts, alignment = args.alignment;
  uint32_t end = 0;
#pragma unroll 1
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

// Expert-major: shares a rank's slots out among its experts, which want so many, in whole alignments. The whole warp calls it.
EP_DEVICE void thin_zones(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t rank, uint32_t wanted) {
  const uint32_t alignment = args.alignment;
  const Thinning blocks{wanted / alignment, static_cast<uint32_t>(args.max_slots / alignment)};
  for_each_zone<true>(args, scratch, rank, [&](uint32_t local, const HtZone& all) {
    const uint32_t expert = rank * args.group.num_local_experts + local;
    const uint32_t begin = blocks.kept(all.begin / alignment) * alignment;
    const uint32_t room = blocks.kept((all.begin + all.num_slots) / alignment) * alignment - begin;
    scratch.quotas[expert] = {begin, room};
    scratch.next[args.group.num_ranks + expert] -= all.begin;  // among the expert's tokens
  });
}

// Whether a rank's output has room for all that it wants.
EP_DEVICE bool has_room(const HtUpdateArgs& args, uint32_t wanted) {
  return args.max_slots == 0 || wanted <= args.max_slots;
}

// A fault, where nothing is dropped: some rank's output has not. All blocks find the same, and the last one to do so tells: who
// belongs to a rank that has failed waits no longer, and some blocks have others' counts to wait for that they pass on. All
// threads of all blocks call it.
EP_DEVICE void report_overflow(const HtUpdateArgs& args, const UpdateScratch& scratch, uint32_t epoch) {
  if (!is_last_block(&args.group.progress->senders_done)) return;
  uint32_t rank = 0;
  while (has_room(args, scratch.wanted[rank])) ++rank;
  report(args.group, {FaultRecord::kOverflow, Wait::none, 0, rank, static_cast<uint32_t>(args.max_slots), epoch,
                      scratch.wanted[rank]});
}

// How many rows each rank's output has and, expert-major, where each expert's slots begin: a warp for each rank. Whether all
// outputs have room for that, of which all ranks find the same. All threads of the block call it, and meet.
template <bool kExpertMajor, class OtherTeams, Peers kPeers>
EP_DEVICE bool find_zones(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                          const OtherTeams& others) {
  const HtGroupState& group = args.group;
  bool fits = true;
#pragma unroll 1
  for (uint32_t rank = dev::warp_idx(); rank < group.num_ranks; rank += dev::num_warps()) {
    uint32_t wanted = scratch.total[rank];
    if constexpr (kExpertMajor) {
      wanted = for_each_zone<true>(args, scratch, rank, [&](uint32_t local, const HtZone& zone) {
        const uint32_t counter = group.num_ranks + rank * group.num_local_experts + local;
        if (is_placed(op, counter) || args.drops) scratch.next[counter] += zone.begin;
        others.note_zone(scratch, rank, local, zone);
      });
      if (is_thinned(args, wanted)) thin_zones(args, scratch, rank, wanted);
    }
    if (dev::lane_idx() != 0) continue;
    scratch.wanted[rank] = wanted;
    fits = has_room(args, wanted) && fits;
  }
  return dev::all_in_block(fits);
}

// Says how many rows this rank's output has, and each of its experts: the caller, the handle and, if `tells_host`, the host,
// whose memory is far away, but nobody waits for what is said in one word. One warp of the rank calls it.
template <bool kExpertMajor>
EP_DEVICE void report_rows(const HtUpdateArgs& args, const UpdateScratch& scratch, bool tells_host) {
  const uint32_t rank = args.group.rank, wanted = scratch.wanted[rank];
  const bool thinned = is_thinned(args, wanted);
  if (kExpertMajor || !thinned) {  // otherwise rows are counted when their records come
    for_each_zone<kExpertMajor>(args, scratch, rank, [&](uint32_t local, HtZone zone) {
      if (thinned) {
        const HtQuota& quota = scratch.quotas[rank * args.group.num_local_experts + local];
        zone = {quota.begin, zone.num_rows < quota.room ? zone.num_rows : quota.room, quota.room};
      }
      *args.handle.zone(local) = zone;
      write_counter(args.expert_counters, local, zone.num_slots);
      write_counter(args.expert_offsets, local, zone.begin);
    });
  }
  if (dev::lane_idx() != 0) return;
  const uint32_t room = static_cast<uint32_t>(args.max_slots) / args.alignment * args.alignment;
  const uint32_t slots = thinned ? room : wanted, rows = kExpertMajor ? scratch.total[rank] : slots;
  const uint32_t tokens = num_tokens(args.topk.tokens);
  write_counter(args.recv_total, 0, wanted);
  *args.handle.totals() = {tokens, rows, slots};
  if (tells_host) dev::st_unit(args.host_totals, {{tokens, rows, slots}, args.update});
}

}  // namespace nccl_ep::ht
