// SPDX-License-Identifier: Apache-2.0
// UpdateHandle for High Throughput in a group of several LSA teams: update.cuh inside the team, and what crosses between teams.
//
// Parties: as in update.cuh. Each rank puts its counts to its rail peers, and passes theirs on to its team, so that all ranks
// have the counts of all. Then each knows the rows of its tokens on all ranks. It puts to each rail peer a list of those that
// go to that team. A rank that has a list remembers these guests as it does its own tokens, and tells the ranks of its team
// what they must know of the rows. Memory: counts and lists of the boxes, besides. Waits: for rail peers, counts and lists,
// besides.
//
// With masks (participants.cuh) each team finds out for itself who takes part. Who keeps the words about a rank of another
// team, and its counts, is its rail peer here, when they have come. Teams need not be of one mind, and so each says where rows
// lie on its ranks: a list numbers the rows that go to a rank, and the tokens that go to an expert, from 0 on. A list that does
// not come leaves rows that nothing is known of, and their ranks are told so.
//
// What is dropped follows from the counts that a rank's own team has agreed upon, and who sends a row must know whether it is. So
// where rows are dropped teams tell each other first (tallies.cuh), and then all is as without masks. A team that does not tell
// gets nothing.
#pragma once

#include "ht/departures.cuh"
#include "ht/guest_list.cuh"
#include "ht/tallies.cuh"
#include "ht/update.cuh"

namespace nccl_ep::ht {

// The other LSA teams in an update.
template <bool kExpertMajor, Peers kOthers>
struct OtherTeams {
  static constexpr Peers kPeers = kOthers;
  const HtUpdateArgs& args;
  Rails<kPeers> it;

  EP_DEVICE const Rails<kPeers>& rails() const { return it; }
  EP_DEVICE uint32_t num_rails() const { return it.size(); }
  EP_DEVICE bool await_peer(const Operation<kPeers>& op, uint32_t i) const { return it.await_peer(op, i); }
  // Whether this rank deals with another one itself.
  EP_DEVICE bool deal_with(const Operation<kPeers>& op, uint32_t rank) const {
    return op.group.is_in_team(rank) || op.deals_with(rank) == op.group.rank;
  }
  // Blocks that send counts.
  EP_DEVICE uint32_t num_senders() const { return it.size() * args.group.layout.team_size; }

  // Puts this rank's counts to its rail peers, a block to each, and passes theirs on: a block for each of theirs and each
  // rank of the team.
  EP_DEVICE bool exchange_counts(const Operation<kPeers>& op, const UpdateScratch& scratch) const {
    if constexpr (has_masks(kPeers)) return exchange_masked(op, scratch);
    const HtLayout& layout = args.group.layout;
    bool ok = true;
    for (uint32_t i = dev::block_idx(); i < it.size(); i += dev::num_blocks()) {
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        ok = ok && it.await_peer(op, i);
        if (ok) dev::st(it.template out<Unit>(i, sizeof(Unit) * u), count_unit(op, scratch, u));
      });
      put_counts(op, i, ok);
    }
    for (uint32_t n = dev::block_idx(); n < it.size() * layout.team_size; n += dev::num_blocks()) {
      const uint32_t i = n / layout.team_size, rank = team_peer(args.group, n);
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        ok = ok && it.await_peer(op, i) && it.await(op, Wait::remote_counts, i, HtRemoteLayout::kCounts) &&
             op.await_peer(rank);
        if (ok) pass_on(op, i, rank, u);
      });
    }
    return ok;
  }

  // With masks: remembers what ranks of this team get from a guest, if it is one, and what others get before.
  EP_DEVICE void note_count(const UpdateScratch& scratch, uint32_t source, uint32_t counter, uint32_t before,
                            uint32_t count) const {
    const HtGroupState& group = args.group;
    const uint32_t team_size = group.layout.team_size;
    if (group.is_in_team(source) || source % team_size != group.rank % team_size) return;
    const uint32_t guests = it.number_of(source / team_size) * team_size;
    if (counter < group.num_ranks) {
      if (group.is_in_team(counter)) scratch.guest_rows[guests + counter - group.first_rank] = {0, before, count};
      return;
    }
    const uint32_t expert = counter - group.num_ranks - group.first_rank * group.num_local_experts;
    if (expert < team_size * group.num_local_experts) {
      scratch.guest_slots[guests * group.num_local_experts + expert] = before;
    }
  }
  EP_DEVICE void note_zone(const UpdateScratch& scratch, uint32_t rank, uint32_t local, const HtZone& zone) const {
    const HtGroupState& group = args.group;
    if (!has_masks(kPeers) || !group.is_in_team(rank)) return;
    for (uint32_t i = 0; i < it.size(); ++i) {
      const uint32_t place = i * group.layout.team_size + rank - group.first_rank;
      scratch.guest_slots[place * group.num_local_experts + local] += zone.begin;
    }
  }

  // With masks, where rows are dropped: from here on what goes to other teams is counted as they do. All threads of all blocks
  // call it, and meet.
  EP_DEVICE void exchange_tallies(const Operation<kPeers>& op, const UpdateScratch& scratch) const {
    if constexpr (has_masks(kPeers)) {
      for_each_thread(num_participant_words(op), [](uint32_t i) { silent_teams()[i] = 0; });
      if (!args.drops) return;
      for (uint32_t i = dev::block_idx(); i < it.size(); i += dev::num_blocks()) {
        if (!takes_part(op, it.peer(i))) continue;
        const Tallies<kPeers> tallies{it, args, scratch, i};
        tallies.write();
        put_written(op, i, HtRemoteLayout::kTallies, tallies.offset(), tallies.bytes(), true);
      }
      for (uint32_t i = 0; i < it.size(); ++i) {
        if (!takes_part(op, it.peer(i))) continue;
        if (comes(op, i, Wait::remote_tallies, HtRemoteLayout::kTallies)) {
          Tallies<kPeers>{it, args, scratch, i}.adopt();
        } else if (dev::thread_idx() == 0) {
          silent_teams()[i / 32] |= 1u << i % 32;
        }
      }
      dev::sync_block();
    }
  }

  // The outboxes may be written. All threads of the block call it, and meet. With masks they may be since counts have come,
  // from those that take part.
  EP_DEVICE bool begin_lists(const Operation<kPeers>& op, const UpdateScratch& scratch) const {
    if constexpr (!has_masks(kPeers)) return dev::all_in_block(dev::warp_idx() != 0 || it.await_peers(op));
    for_each_thread(it.size(), [&](uint32_t i) {
      HtOutgoing* rows = scratch.guest_rows + i * args.group.layout.team_size;
      for (uint32_t place = 0, first = 0; place < args.group.layout.team_size; ++place) {
        if (!kExpertMajor && args.drops) rows_on(args, scratch, args.group.first_rank + place).thin(rows[place]);
        rows[place].first = first;
        first += rows[place].num_rows;
      }
    });
    dev::sync_block();
    return true;
  }

  using Departures = DepartureLists<kPeers>;
  EP_DEVICE Departures departures(const UpdateScratch& scratch) const {
    EP_SHARED(uint32_t, teams, [kHtUpdateThreads]);
    return {it, args, scratch, teams};
  }

  // Puts the lists when all blocks have written theirs, and receives the guests: a thread for each of their rows. All
  // threads of all blocks call it.
  EP_DEVICE void exchange_lists(const Operation<kPeers>& op, const UpdateScratch& scratch) const {
    put_lists(op, departures(scratch));
    for (uint32_t i = 0; i < it.size(); ++i) {
      bool is_counted = true, has_come = true;
      if constexpr (has_masks(kPeers)) {
        is_counted = takes_part(op, it.peer(i));
        has_come = is_counted && comes(op, i, Wait::remote_records, HtRemoteLayout::kList);
      } else {
        if (!it.await(op, Wait::remote_records, i, HtRemoteLayout::kList)) return;
      }
      receive_guests(op, GuestList<kPeers>(it, args, scratch, i, has_come), is_counted, has_come);
    }
  }

 private:
  EP_DEVICE Unit received_counts(const Operation<kPeers>& op, uint32_t i, uint32_t u) const {
    Unit unit = dev::ld(it.template in<Unit>(i, sizeof(Unit) * u));
    unit.epoch = op.epoch;
    return unit;
  }
  EP_DEVICE void pass_on(const Operation<kPeers>& op, uint32_t i, uint32_t rank, uint32_t u) const {
    const uint64_t at = args.group.layout.counts_at(it.peer(i), u);
    dev::st_unit(args.group.window.template at<Unit>(rank, at), received_counts(op, i, u));
  }
  // Puts what this block has written, if that went well. All its threads call it, and meet.
  EP_DEVICE void put_written(const Operation<kPeers>& op, uint32_t i, uint32_t word, uint64_t offset, uint64_t bytes,
                             bool ok) const {
    dev::sync_block();
    if (dev::thread_idx() == 0 && ok) it.put(op, i, word, offset, bytes);
  }
  EP_DEVICE void put_counts(const Operation<kPeers>& op, uint32_t i, bool ok) const {
    put_written(op, i, HtRemoteLayout::kCounts, 0, sizeof(Unit) * args.group.layout.count_units(), ok);
  }

  // What the first thread finds, for all of the block, which meet.
  template <class Find>
  EP_DEVICE static bool of_first_thread(Find find) {
    return dev::all_in_block(dev::thread_idx() != 0 || find());
  }

  // exchange_counts() with masks. Rail peers that have not started are left out.
  EP_DEVICE bool exchange_masked(const Operation<kPeers>& op, const UpdateScratch& scratch) const {
    const HtLayout& layout = args.group.layout;
    for (uint32_t i = dev::block_idx(); i < it.size(); i += dev::num_blocks()) {
      if (!of_first_thread([&] { return it.await_peer(op, i); })) continue;
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        dev::st(it.template out<Unit>(i, sizeof(Unit) * u), count_unit(op, scratch, u));
      });
      put_counts(op, i, true);
    }
    for (uint32_t n = dev::block_idx(); n < it.size() * layout.team_size; n += dev::num_blocks()) {
      const uint32_t i = n / layout.team_size, rank = team_peer(args.group, n);
      if (!keep_counts(op, i)) continue;
      for_each_thread(layout.count_units(), [&](uint32_t u) {
        if (op.reaches(rank)) pass_on(op, i, rank, u);
      });
    }
    return true;
  }
  // Waits for a rail peer's counts, keeps them for those that miss them, and says whether it takes part; returns what holds. All
  // threads of the block call it, and meet.
  EP_DEVICE bool keep_counts(const Operation<kPeers>& op, uint32_t i) const {
    const uint32_t source = it.peer(i);
    const bool came = of_first_thread([&] { return it.await(op, Wait::remote_counts, i, HtRemoteLayout::kCounts); });
    if (came) {
      for_each_thread(args.group.layout.count_units(),
                      [&](uint32_t u) { dev::st_unit(kept_counts(op, source, u), received_counts(op, i, u)); });
    }
    dev::sync_block();
    const bool is_present = of_first_thread([&] {
      const Verdict mine = came ? Verdict::present : Verdict::absent;
      return !has_failed(op.group) && settle(op, source, mine, said_of(op, source)) == Verdict::present;
    });
    return came && is_present;
  }

  // With masks: whether what has that word comes from a rail peer. Some blocks may wait for it in vain and others not, so the
  // first one with an opinion decides. All threads of the block call it, and meet.
  EP_DEVICE bool comes(const Operation<kPeers>& op, uint32_t i, Wait what, uint32_t word) const {
    return of_first_thread([&] {
      uint32_t* verdict = args.group.mask.verdicts + word * args.group.num_ranks + it.peer(i);
      const Verdict mine = it.await(op, what, i, word) ? Verdict::present : Verdict::absent;
      const Participation said{dev::ld_acquire<dev::Scope::gpu>(verdict)};
      return settle<dev::Scope::gpu>(verdict, op.epoch, mine, said) == Verdict::present;
    });
  }

  // `is_counted`: rows are reserved for them; `comes`: their list has come.
  EP_DEVICE void receive_guests(const Operation<kPeers>& op, const GuestList<kPeers>& guests, bool is_counted,
                                bool comes) const {
    const uint32_t me = dev::block_idx() * dev::num_threads() + dev::thread_idx();
    const uint32_t num_threads = dev::num_blocks() * dev::num_threads();
    const HtList& list = guests.list;
    if (me == 0) args.handle.parcels(guests.number)->guests = list.num_parcels;
    for (uint32_t place = me; place < list.team_size; place += num_threads) {
      guests.remember_flow(place, is_counted && takes_part(op, args.group.first_rank + place));
    }
    if (!comes) {
      const HtOutgoing last = guests.outgoing(list.team_size - 1);
      const uint32_t num_rows = is_counted ? last.first + last.num_rows : 0;
      for (uint32_t record = me; record < num_rows; record += num_threads) guests.lose_row(op, record);
      return;
    }
    for (uint32_t parcel = me; parcel < list.num_parcels; parcel += num_threads) guests.remember_guest(parcel);
    for (uint32_t record = me; record < list.num_records; record += num_threads) {
      guests.template receive_row<kExpertMajor>(op, record);
    }
  }

  EP_DEVICE void put_lists(const Operation<kPeers>& op, const DepartureLists<kPeers>& lists) const {
    dev::sync_block();  // all of this block's are written
    const auto is_last = [&] { return is_last_block<dev::Order::acq_rel>(&args.group.progress->senders_done); };
    if (!of_first_thread(is_last)) return;
    for_each_thread(it.size(), [&](uint32_t i) {
      if (!takes_part(op, it.peer(i)) || !lists.has_told(it.peer(i))) {
        args.handle.parcels(i)->departing = 0;
        return;
      }
      const uint64_t bytes = lists.finish(it.team(i)).size();
      it.put(op, i, HtRemoteLayout::kList, it.network.layout.list, bytes);
    });
  }
};

template <bool kExpertMajor, Peers kPeers = Peers::teams>
EP_DEVICE void update_remote(const HtUpdateArgs& args) {
  update_with<kExpertMajor>(args, OtherTeams<kExpertMajor, kPeers>{args, {args.group, args.network}});
}

}  // namespace nccl_ep::ht
