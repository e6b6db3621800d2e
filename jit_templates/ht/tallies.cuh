// SPDX-License-Identifier: Apache-2.0
// What a team tells another one, rank by rail peer, of how it has added up the counts of all ranks: in an update with masks that
// drops what there is no room for.
#pragma once

#include "ht/counts.cuh"
#include "ht/rails.cuh"

namespace nccl_ep::ht {

// With one rail peer. The threads of a block share them.
template <Peers kPeers>
struct Tallies {
  const Rails<kPeers>& rails;
  const HtUpdateArgs& args;
  const UpdateScratch& scratch;
  uint32_t number;  // of the other team

  // Writes this team's into the outbox. What the rail peer's tokens have before them stands with the guests.
  EP_DEVICE void write() const {
    const HtGroupState& group = args.group;
    const uint32_t team_size = group.layout.team_size, team_experts = team_size * group.num_local_experts;
    const uint32_t first_expert = group.num_ranks + rails.own_team() * team_experts;
    for_each(rails.own_team(), [&](uint32_t place, uint32_t counter, uint64_t at) {
      const uint32_t before = counter < group.num_ranks
                                  ? scratch.guest_rows[number * team_size + place].row
                                  : scratch.guest_slots[number * team_experts + counter - first_expert];
      *rails.template out<HtTally>(number, at) = {before, scratch.total[counter]};
    });
  }
  // Counts what goes to the other team as it does, by what has come from there.
  EP_DEVICE void adopt() const {
    for_each(rails.team(number), [&](uint32_t, uint32_t counter, uint64_t at) {
      const HtTally tally = *rails.template in<HtTally>(number, at);
      scratch.total[counter] = tally.all;
      scratch.next[counter] += tally.before;
      if (counter >= args.group.num_ranks) return;
      HtOutgoing& outgoing = scratch.outgoing[counter];
      scratch.next[counter] -= outgoing.row;  // as this team counts
      outgoing.row = tally.before;
    });
  }
  // Where they begin in a box.
  EP_DEVICE uint64_t offset() const { return layout().tallies; }
  EP_DEVICE uint64_t bytes() const { return layout().tally_at(args.group.layout.team_size, 0) - offset(); }

 private:
  EP_DEVICE const HtRemoteLayout& layout() const { return rails.network.layout; }
  // Calls visit(place, counter, at) for each tally of a team: of which of its ranks, what it counts, where in the box.
  template <class Visit>
  EP_DEVICE void for_each(uint32_t team, Visit visit) const {
    const uint32_t team_size = args.group.layout.team_size, num_local = args.group.num_local_experts;
    for_each_thread(team_size * layout().tallies_of_rank, [&](uint32_t n) {
      const uint32_t place = n / layout().tallies_of_rank, i = n % layout().tallies_of_rank;
      const uint32_t rank = team * team_size + place;
      visit(place, i == 0 ? rank : args.group.num_ranks + rank * num_local + i - 1, layout().tally_at(place, i));
    });
  }
};

}  // namespace nccl_ep::ht
