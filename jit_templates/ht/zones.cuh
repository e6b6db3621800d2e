// SPDX-License-Identifier: Apache-2.0
// From the counts of all ranks: what goes to each rank, where each expert's slots begin, and what is left of it all where
// there is no room.
#pragma once

#include "ht/counts.cuh"

namespace nccl_ep::ht {

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

// Where the rows for each rank begin among those that this rank sends to its team. What it is for another block is no
// different.
EP_DEVICE void find_outgoing(const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const HtGroupState& group = args.group;
  for_each_thread(group.num_ranks, [&](uint32_t rank) {
    HtOutgoing& outgoing = scratch.outgoing[rank];
    const uint32_t first_rank = rank - rank % group.layout.team_size;
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
  const HtTotals totals{num_tokens(args.topk.tokens), kExpertMajor ? num_rows : slots, slots};
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
template <bool kExpertMajor, class OtherTeams, Peers kPeers>
EP_DEVICE void find_zones(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                          const OtherTeams& others) {
  const HtGroupState& group = args.group;
  for (uint32_t rank = dev::warp_idx(); rank < group.num_ranks; rank += dev::num_warps()) {
    const bool reports = rank == group.rank && dev::block_idx() == 0;
    uint32_t wanted = scratch.total[rank];
    // Flat, what experts keep of too many rows is counted when the records come.
    if (kExpertMajor || (reports && !is_thinned(args, wanted))) {
      const uint32_t end = for_each_zone<kExpertMajor>(args, scratch, rank, [&](uint32_t local, const HtZone& zone) {
        const uint32_t counter = group.num_ranks + rank * group.num_local_experts + local;
        if (kExpertMajor && is_placed(op, counter)) scratch.next[counter] += zone.begin;
        if (kExpertMajor) others.note_zone(scratch, rank, local, zone);
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

}  // namespace nccl_ep::ht
