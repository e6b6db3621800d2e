// SPDX-License-Identifier: Apache-2.0
// Gives tokens their rows and slots, remembers them, and tells the receivers, who remember them as well.
#pragma once

#include "ht/routes.cuh"
#include "ht/zones.cuh"

namespace nccl_ep::ht {

// The source rank of a row, its token, the place of its home slot, and its hits, as units without a tag: calls put(i, unit).
template <class Put>
EP_DEVICE void write_record(uint32_t source, uint32_t token, uint32_t place, uint32_t num_hits, const uint32_t* hits,
                            Put put) {
  put(0, Unit{{source | num_hits << 16 | place << 24, token, hits[0]}, 0});
#pragma unroll 1
  for (uint32_t hit = 1; hit < num_hits; hit += 3) {
    Unit more{{0, 0, 0}, 0};
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (hit + j < num_hits) more.word[j] = hits[hit + j];
    }
    put(1 + hit / 3, more);
  }
}

// The place in the first unit of a record.
EP_DEVICE uint32_t home_place(const Unit& unit) { return unit.word[0] >> 24; }
EP_DEVICE void set_home_place(Unit& unit, uint32_t place) { unit.word[0] = (unit.word[0] & 0xffffff) | place << 24; }

// Tells a rank of the team a unit of what it must know of a row.
template <Peers kPeers>
EP_DEVICE void send_record_unit(const Operation<kPeers>& op, uint32_t rank, uint32_t row, uint32_t i, Unit unit) {
  unit.epoch = op.epoch;
  const HtGroupState& group = op.group;
  dev::st_unit(group.window.at<Unit>(rank, group.layout.record_at(row, i)), unit);
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
    return rows_on(args, scratch, rank).keeps(number(rank));
  }
  EP_DEVICE uint32_t row(uint32_t rank) const {
    return thins && !kExpertMajor ? rows_on(args, scratch, rank).kept(number(rank)) : number(rank);
  }
  // Expert-major, if it is kept.
  EP_DEVICE uint32_t slot(uint32_t expert, uint32_t rank) const {
    const uint32_t mine = number(args.group.num_ranks + expert);
    if (!thins || !is_thinned(args, scratch.wanted[rank])) return mine;
    return scratch.quotas[expert].begin + slots(expert).kept(mine);
  }
  // Among the tokens that a counter counts.
  EP_DEVICE uint32_t number(uint32_t counter) const {
    return scratch.next[counter] + scratch.of(counter).count_before(in_tile);
  }

 private:
  EP_DEVICE Thinning slots(uint32_t expert) const {
    return {scratch.total[args.group.num_ranks + expert], scratch.quotas[expert].room};
  }
};

// Who takes part, and who keeps a token, when that is known.
template <bool kExpertMajor, class Departures, Peers kPeers>
struct WhatIsLeft {
  static constexpr bool kKeepsAll = false;
  const Operation<kPeers>& op;
  const Placement<kExpertMajor>& placement;
  const Departures& departures;

  EP_DEVICE bool takes_part(uint32_t rank) const { return ht::takes_part(op, rank) && departures.has_told(rank); }
  EP_DEVICE bool is_kept(uint32_t expert, uint32_t rank) const { return placement.is_kept(expert, rank); }
};

// Gives tokens their rows. All threads of the block call it, and meet.
template <bool kExpertMajor, class Departures, Peers kPeers>
EP_DEVICE void place_tokens(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                            const Place& place, const RouteOf<Departures>& route, Places& places,
                            const Placement<kExpertMajor>& placement, const Departures& departures) {
  const uint32_t num_local = args.group.num_local_experts, rank = route.expert / num_local;
  if (place.exists) {
    *args.handle.place(place.token, place.k) = route.is_kept ? route.hit : HtHandleLayout::kNoHit;
  }
  if (route.is_first && route.is_kept) {
    const uint32_t local = route.expert - rank * num_local;
    places.hits[place.base + route.hit] =
        kExpertMajor ? departures.hit(rank, local, placement.slot(route.expert, rank)) : local;
  }
  if (place.exists && place.k == 0) {
    const uint32_t num_dests = route.num_dests + departures.num_teams(place.base);
    *args.handle.num_dests(place.token) = static_cast<uint8_t>(num_dests);
  }
  departures.note(route.departure, placement, places, place.base, place.token, route.num_dests);
  const bool is_in_team = departures.is_in_team(rank);
  const auto standing = op.standing_of(route.leads && is_in_team ? rank : op.group.rank);  // on its way
  dev::sync_block();
  if (!route.leads || !(kExpertMajor || route.is_dest())) return;
  const HtOutgoing& outgoing = scratch.outgoing[rank];
  const uint32_t row = placement.row(rank), send = outgoing.first + (row - outgoing.row);
  const uint32_t* hits = places.hits + place.base + route.hit;
  if (!is_in_team) {
    departures.write(route.departure, placement, send, route.hit, route.dest_idx, route.num_hits, hits);
    return;
  }
  if (route.is_dest()) {
    const HtHits on_rank{route.hit, route.num_hits};
    *args.handle.dest(place.token, route.dest_idx) = {static_cast<uint16_t>(rank), on_rank, row};
  }
  const uint32_t slot = !route.is_dest() ? HtHandleLayout::kNoSlot : kExpertMajor ? hits[0] : row;
  *args.handle.send(send) = {place.token, slot};
  if (!op.reaches(rank, standing)) return;
  const uint32_t home_place = args.group.layout.slots_are_of_hits ? route.hit : route.dest_idx;
  write_record(args.group.rank, place.token, home_place, route.num_hits, hits,
               [&](uint32_t i, const Unit& unit) { send_record_unit(op, rank, row, i, unit); });
}

// Gives all tokens of the block their rows. All its threads call it, and meet. `first`: the routes of the first ones.
template <bool kExpertMajor, class Departures, Peers kPeers>
EP_DEVICE void place_all(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch,
                         Places& places, bool thins, const Departures& departures, const RouteOf<Departures>& first) {
  const bool first_hold = !thins && all_take_part(op) && departures.all_have_told();
  const uint32_t num_tokens = dev::num_threads() / args.topk.num_topk;  // at a time
  for (uint32_t i = 0; i < args.tiles_per_block; ++i) {
    const Tile tile(args, i);
    if (args.tiles_per_block > 1) fill_bits(args, scratch, tile);
    for (uint32_t begin = tile.begin; begin < tile.end; begin += num_tokens) {
      const Place place(args, tile, begin);
      const Placement<kExpertMajor> placement{args, scratch, thins, place.token - tile.begin};
      const WhatIsLeft<kExpertMajor, Departures, kPeers> left{op, placement, departures};
      const bool is_found = first_hold && i == 0 && begin == tile.begin;
      const auto route = is_found ? first : find_routes(op, args, place, places, departures, left);
      place_tokens<kExpertMajor>(op, args, scratch, place, route, places, placement, departures);
    }
    if (i + 1 == args.tiles_per_block) return;
    dev::sync_block();
    for_each_thread(scratch.num_counters,
                    [&](uint32_t c) { scratch.next[c] += scratch.of(c).count(scratch.num_words); });
    dev::sync_block();
  }
}

// Who sends a row to this rank, found once more from the counts, for the words of a fault. `rows`: what is kept of them.
template <Peers kPeers>
EP_DEVICE uint32_t source_of(const Operation<kPeers>& op, const Thinning& rows, uint32_t row) {
  const HtGroupState& group = op.group;
  uint32_t end = 0, source = 0;
#pragma unroll 1
  for (; source + 1 < group.num_ranks; ++source) {
    if (!takes_part(op, source)) continue;
    const Unit unit = dev::ld_unit(group.window.at<Unit>(group.rank, group.layout.counts_at(source, group.rank / 3)));
    end += group.rank % 3 == 0 ? unit.word[0] : group.rank % 3 == 1 ? unit.word[1] : unit.word[2];
    if (row < rows.kept(end)) break;
  }
  return source;
}

// Whether all other ranks of the team are masked.
template <Peers kPeers>
EP_DEVICE bool is_alone(const Operation<kPeers>& op) {
  bool alone = true;
  for (uint32_t i = 0; i + 1 < op.group.layout.team_size; ++i) alone &= is_masked(op.group, team_peer(op.group, i));
  return alone;
}

// Waits for a unit of a record that this rank writes itself. If the others have gone on without it, its blocks may be of
// several minds (participants.cuh), and some write no such record.
template <Peers kPeers, class HasArrived>
EP_DEVICE bool await_own_record(const Operation<kPeers>& op, const Awaited& awaited, HasArrived has_arrived) {
  const uint64_t start = dev::clock_ns();
  bool arrived = false;
  const auto is_over = [&] { return dev::clock_ns() - start > op.group.timeout_ns && is_alone(op); };
  return op.wait_for_own(awaited, [&] { return (arrived = has_arrived()) || is_over(); }) && arrived;
}

// Waits for a unit of a record. `missing()` takes a while to find out whose it is; masks must know that before a wait ends.
template <Peers kPeers, class Missing>
EP_DEVICE bool await_record(const Operation<kPeers>& op, const Unit* address, Unit& unit, Missing missing) {
  const auto has_arrived = [&] { return op.has_arrived(address, unit); };
  if constexpr (!Operation<kPeers>::kMasks) return wait_until(op.group, op.epoch, has_arrived, missing);
#pragma unroll 1
  for (uint32_t polls = 0; polls < dev::kPollsBeforeClock; ++polls) {
    if (has_arrived()) return true;
  }
  const Awaited awaited = missing();
  if (awaited.peer == op.group.rank) return await_own_record(op, awaited, has_arrived);
  return op.wait_for(awaited, has_arrived);
}

// Waits for the records of this rank's rows and remembers them: a thread for each row. Flat, they say which tokens are left
// if some are not.
template <bool kExpertMajor, Peers kPeers>
EP_DEVICE void receive_records(const Operation<kPeers>& op, const HtUpdateArgs& args, const UpdateScratch& scratch) {
  const HtGroupState& group = op.group;
  const bool thinned = !kExpertMajor && is_thinned(args, scratch.wanted[group.rank]);
  const uint32_t num_rows = thinned ? static_cast<uint32_t>(args.max_slots) : scratch.total[group.rank];
  const Thinning rows{scratch.total[group.rank], num_rows};
  auto* counters = thinned ? static_cast<uint32_t*>(args.expert_counters.data) : nullptr;
  const auto note = [&](uint32_t row, uint32_t i, uint32_t hit) {
    *args.handle.hit(row, i) = hit;
    if (counters) dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(counters + hit, 1u);
  };
  const auto get = [&](uint32_t row, uint32_t i, Unit& unit) {
    const Unit* address = group.window.at<Unit>(group.rank, group.layout.record_at(row, i));
    return await_record(op, address, unit,
                        [&] { return Awaited{Wait::row_record, op.deals_with(source_of(op, rows, row)), row}; });
  };
  // A row whose rank is lost stays, and has no hits.
  const auto lose_row = [&](uint32_t row) {
    if (op.goes_on()) *args.handle.home(row) = {};
    return op.goes_on();
  };
  const uint32_t first = dev::block_idx() * dev::num_threads() + dev::thread_idx();
#pragma unroll 1
  for (uint32_t row = first; row < num_rows; row += dev::num_blocks() * dev::num_threads()) {
    Unit unit;
    if (!get(row, 0, unit)) {
      if (!lose_row(row)) return;
      continue;
    }
    const uint32_t num_hits = unit.word[0] >> 16 & 0xff;
    *args.handle.home(row) = {static_cast<uint16_t>(unit.word[0]), static_cast<uint8_t>(home_place(unit)),
                              static_cast<uint8_t>(num_hits), unit.word[1]};
    // None where its list has not come, says the host.
    if (!Operation<kPeers>::kMasks || num_hits > 0) note(row, 0, unit.word[2]);
#pragma unroll 1
    for (uint32_t hit = 1; hit < num_hits; ++hit) {
      if (hit % 3 == 1 && !get(row, 1 + hit / 3, unit)) {
        if (!lose_row(row)) return;
        break;
      }
      note(row, hit, unit.word[(hit - 1) % 3]);
    }
  }
}

}  // namespace nccl_ep::ht
