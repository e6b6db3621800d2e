// SPDX-License-Identifier: Apache-2.0
// UpdateHandle for High Throughput in a group of several LSA teams: update.cuh inside the team, and what crosses between teams.
//
// Parties: as in update.cuh. Each rank puts its counts to its rail peers, and passes theirs on to its team, so that all ranks
// have the counts of all. Then each knows the rows of its tokens on all ranks. It puts to each rail peer a list of those that
// go to that team. A rank that has a list remembers these guests as it does its own tokens, and tells the ranks of its team
// what they must know of the rows. Memory: counts and lists of the boxes, besides. Waits: for rail peers, counts and lists,
// besides.
#pragma once

#include "ht/rails.cuh"
#include "ht/update.cuh"

namespace nccl_ep::ht {

// What a place's thread knows of the team that its expert is in.
struct Departure {
  uint32_t team;
  uint32_t first_hit, num_hits;  // of the token, in the team
  bool leads;                    // the team's first expert, and the team is another one
};

// The lists of this rank's tokens that go to other teams, as they are written into the outboxes.
struct DepartureLists {
  const Rails& rails;
  const HtUpdateArgs& args;
  const UpdateScratch& scratch;
  uint32_t* teams;  // of the places' tokens, each at one place; in shared memory

  EP_DEVICE uint32_t team_begin(uint32_t rank) const { return rank - rank % args.group.layout.team_size; }
  EP_DEVICE bool is_in_team(uint32_t rank) const { return args.group.is_in_team(rank); }
  EP_DEVICE HtList list(uint32_t team) const {
    const HtLayout& layout = args.group.layout;
    const HtOutgoing& last = scratch.outgoing[(team + 1) * layout.team_size - 1];
    return {layout.team_size, layout.record_units(), scratch.total[layout.team_counter(team)],
            last.first + last.num_rows};
  }
  template <class T>
  EP_DEVICE T* at(uint32_t team, uint64_t offset) const {
    return rails.out<T>(rails.number_of(team), rails.network.layout.list + offset);
  }

  // The threads of all places call it, and meet before what it has found is used.
  EP_DEVICE Departure find(const Places& places, uint32_t base, uint32_t expert, bool is_first) const {
    const uint32_t team_experts = args.group.num_local_experts * args.group.layout.team_size;
    Departure it{expert / team_experts, 0, 0, is_first};
    const uint32_t first_expert = it.team * team_experts;
    const auto is_there = [&](uint32_t other) { return other - first_expert < team_experts; };
    for (uint32_t j = 0; expert != kNone && j < args.topk.num_topk; ++j) {
      const uint32_t first = places.first[base + j], kept = places.kept[base + j];
      it.first_hit += kept < first_expert;
      it.num_hits += is_there(kept);
      it.leads = it.leads && !(is_there(first) && first < expert);
    }
    it.leads = it.leads && it.team != rails.own_team();
    teams[dev::thread_idx()] = it.leads && it.num_hits > 0 ? it.team : kNone;
    return it;
  }
  EP_DEVICE uint32_t num_teams(uint32_t base) const {
    uint32_t num_teams = 0;
    for (uint32_t j = 0; j < args.topk.num_topk; ++j) num_teams += teams[base + j] != kNone;
    return num_teams;
  }

  // Remembers a token that goes to another team, and tells the rail peer to how many ranks. `team_dests`: the token's
  // destinations in this team, which come before the others.
  template <class Placement>
  EP_DEVICE void note(const Departure& it, const Placement& placement, const Places& places, uint32_t base,
                      uint32_t token, uint32_t team_dests) const {
    if (!it.leads) return;
    const uint32_t team_size = args.group.layout.team_size, first_rank = it.team * team_size;
    uint32_t dest = team_dests, num_there = 0;
    for (uint32_t j = 0; j < args.topk.num_topk; ++j) {
      dest += teams[base + j] < it.team;
      num_there += places.experts[base + j] - first_rank < team_size;
    }
    const uint32_t parcel = placement.number(args.group.layout.team_counter(it.team));
    const HtHits hits{static_cast<uint8_t>(it.first_hit), static_cast<uint8_t>(it.num_hits)};
    *args.handle.departure(rails.number_of(it.team), parcel) = {token, hits};
    if (num_there > 0) {
      *args.handle.dest(token, dest) = {static_cast<uint16_t>(rails.peer_in(it.team)), hits, parcel};
    }
    *at<uint8_t>(it.team, list(it.team).num_dests_at(parcel)) = static_cast<uint8_t>(num_there);
  }

  // The record of a row on a rank of another team. It says as well where its hits begin among those in that team.
  template <class Placement>
  EP_DEVICE void write(const Departure& it, const Placement& placement, uint32_t record, uint32_t first_hit,
                       uint32_t dest_idx, uint32_t num_hits, const uint32_t* hits) const {
    const uint32_t parcel = placement.number(args.group.layout.team_counter(it.team));
    const HtList there = list(it.team);
    write_record(args.group.rank, parcel, dest_idx, num_hits, hits, [&](uint32_t i, Unit unit) {
      if (i == 0) unit.epoch = first_hit - it.first_hit;
      dev::st(at<Unit>(it.team, there.record_at(record, i)), unit);
    });
  }

  // The rest of a list.
  EP_DEVICE HtList finish(uint32_t team) const {
    const HtList it = list(team);
    dev::st(at<HtListHead>(team, 0), HtListHead{it.num_parcels, it.num_records});
    for (uint32_t i = 0; i < it.team_size; ++i) {
      *at<HtOutgoing>(team, it.outgoing_at(i)) = scratch.outgoing[team * it.team_size + i];
    }
    args.handle.parcels(rails.number_of(team))->departing = it.num_parcels;
    return it;
  }
};

// What has come from a rail peer about its tokens.
struct GuestList {
  const Rails& rails;
  const HtUpdateArgs& args;
  uint32_t number;  // of the other team
  HtList list;

  EP_DEVICE GuestList(const Rails& our_rails, const HtUpdateArgs& update_args, uint32_t other_team)
      : rails(our_rails), args(update_args), number(other_team) {
    const HtListHead head = dev::ld(at<HtListHead>(0));
    list = {args.group.layout.team_size, args.group.layout.record_units(), head.num_parcels, head.num_records};
  }

  template <class T>
  EP_DEVICE const T* at(uint64_t offset) const {
    return rails.in<T>(number, rails.network.layout.list + offset);
  }
  EP_DEVICE const HtOutgoing& outgoing(uint32_t i) const { return *at<HtOutgoing>(list.outgoing_at(i)); }
  EP_DEVICE uint32_t first_send() const { return (1 + number) * args.handle.layout.team_sends; }

  // One thread calls it.
  EP_DEVICE void remember_flow(uint32_t i) const {
    const HtOutgoing it = outgoing(i);
    *args.handle.outgoing(rails.team(number) * list.team_size + i) = {first_send() + it.first, it.row, it.num_rows};
  }
  EP_DEVICE void remember_guest(uint32_t parcel) const {
    *args.handle.num_dests(rails.first_guest(number) + parcel) = *at<uint8_t>(list.num_dests_at(parcel));
  }
  // Remembers a guest's row, and passes its record on.
  template <bool kExpertMajor>
  EP_DEVICE void receive_row(const Operation<Peers::teams>& op, uint32_t record) const {
    uint32_t place = 0;
    while (place + 1 < list.team_size && record >= outgoing(place + 1).first) ++place;
    const uint32_t rank = args.group.first_rank + place, row = outgoing(place).row + (record - outgoing(place).first);
    Unit unit = dev::ld(at<Unit>(list.record_at(record, 0)));
    const uint32_t num_hits = unit.word[0] >> 16 & 0xff, guest = rails.first_guest(number) + unit.word[1];
    const HtHits hits{static_cast<uint8_t>(unit.epoch), static_cast<uint8_t>(num_hits)};
    const uint64_t send = uint64_t{first_send()} + record;
    *args.handle.send(send) = {guest, num_hits == 0 ? HtHandleLayout::kNoSlot : kExpertMajor ? unit.word[2] : row};
    *args.handle.guest_hits(send) = hits;
    if (num_hits > 0) *args.handle.dest(guest, unit.word[0] >> 24) = {static_cast<uint16_t>(rank), hits, row};
    unit.word[1] = guest;
    send_record_unit(op, rank, row, 0, unit);
    for (uint32_t i = 1; 3 * i < num_hits + 2; ++i) {
      send_record_unit(op, rank, row, i, dev::ld(at<Unit>(list.record_at(record, i))));
    }
  }
};

// The other LSA teams in an update.
template <bool kExpertMajor>
struct OtherTeams {
  static constexpr Peers kPeers = Peers::teams;
  const HtUpdateArgs& args;
  Rails it;

  EP_DEVICE const Rails& rails() const { return it; }

  // Puts this rank's counts to its rail peers, a block to each, and passes theirs on: a block for each of theirs and each
  // rank of the team.
  EP_DEVICE bool exchange_counts(const Operation<Peers::teams>& op, const UpdateScratch& scratch) const {
    const HtLayout& layout = args.group.layout;
    bool ok = true;
    for (uint32_t i = dev::block_idx(); i < it.size(); i += dev::num_blocks()) {
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        ok = ok && it.await_peer(op, i);
        if (ok) dev::st(it.out<Unit>(i, sizeof(Unit) * u), count_unit(op, scratch, u));
      });
      dev::sync_block();  // all of them are written
      if (dev::thread_idx() == 0 && ok) {
        it.put(op, i, HtRemoteLayout::kCounts, 0, sizeof(Unit) * layout.count_units());
      }
    }
    for (uint32_t n = dev::block_idx(); n < it.size() * layout.team_size; n += dev::num_blocks()) {
      const uint32_t i = n / layout.team_size, rank = team_peer(args.group, n);
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        ok = ok && it.await(op, Wait::remote_counts, i, HtRemoteLayout::kCounts) && op.await_peer(rank);
        if (!ok) return;
        const Unit unit = dev::ld(it.in<Unit>(i, sizeof(Unit) * u));
        dev::st_unit(args.group.window.at<Unit>(rank, layout.counts_at(it.peer(i), u)), tagged(op, unit));
      });
    }
    return ok;
  }

  // The outboxes may be written. All threads of the block call it, and meet.
  EP_DEVICE bool begin_lists(const Operation<Peers::teams>& op) const {
    dev::sync_block();
    return all_in_block(dev::warp_idx() != 0 || it.await_peers(op));
  }

  EP_DEVICE DepartureLists departures(const UpdateScratch& scratch) const {
    EP_SHARED(uint32_t, teams, [kHtUpdateThreads]);
    return {it, args, scratch, teams};
  }

  // Puts the lists when all blocks have written theirs, and receives the guests: a thread for each of their rows. All
  // threads of all blocks call it.
  EP_DEVICE void exchange_lists(const Operation<Peers::teams>& op, const UpdateScratch& scratch) const {
    put_lists(op, departures(scratch));
    const uint32_t me = dev::block_idx() * dev::num_threads() + dev::thread_idx();
    const uint32_t num_threads = dev::num_blocks() * dev::num_threads();
    for (uint32_t i = 0; i < it.size(); ++i) {
      if (!it.await(op, Wait::remote_records, i, HtRemoteLayout::kList)) return;
      const GuestList guests(it, args, i);
      if (me == 0) args.handle.parcels(i)->guests = guests.list.num_parcels;
      for (uint32_t place = me; place < guests.list.team_size; place += num_threads) guests.remember_flow(place);
      for (uint32_t parcel = me; parcel < guests.list.num_parcels; parcel += num_threads) guests.remember_guest(parcel);
      for (uint32_t record = me; record < guests.list.num_records; record += num_threads) {
        guests.receive_row<kExpertMajor>(op, record);
      }
    }
  }

 private:
  EP_DEVICE static Unit tagged(const Operation<Peers::teams>& op, Unit unit) {
    unit.epoch = op.epoch;
    return unit;
  }

  EP_DEVICE void put_lists(const Operation<Peers::teams>& op, const DepartureLists& lists) const {
    EP_SHARED(uint32_t, is_last, [1]);
    uint32_t* blocks_written = &args.group.progress->senders_done;
    dev::sync_block();  // all of this block's are written
    if (dev::thread_idx() == 0) {
      is_last[0] = dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(blocks_written, 1u) + 1 == dev::num_blocks();
      if (is_last[0]) dev::st_relaxed<dev::Scope::gpu>(blocks_written, 0u);
    }
    dev::sync_block();
    if (!is_last[0]) return;
    for_each_thread(it.size(), [&](uint32_t i) {
      const uint64_t bytes = lists.finish(it.team(i)).size();
      it.put(op, i, HtRemoteLayout::kList, it.network.layout.list, bytes);
    });
  }
};

template <bool kExpertMajor>
EP_DEVICE void update_remote(const HtUpdateArgs& args) {
  update_with<kExpertMajor>(args, OtherTeams<kExpertMajor>{args, {args.group, args.network}});
}

}  // namespace nccl_ep::ht
