// SPDX-License-Identifier: Apache-2.0
// The list that has come from a rail peer, in an update: this rank remembers its tokens as it does its own, and tells the ranks of
// the team what they must know of the rows.
#pragma once

#include "ht/place.cuh"
#include "ht/rails.cuh"

namespace nccl_ep::ht {

// What has come from a rail peer about its tokens.
template <Peers kPeers>
struct GuestList {
  const Rails<kPeers>& rails;
  const HtUpdateArgs& args;
  const UpdateScratch& scratch;
  uint32_t number;  // of the other team
  HtList list;

  // `comes`: there is one.
  EP_DEVICE GuestList(const Rails<kPeers>& our_rails, const HtUpdateArgs& update_args,
                      const UpdateScratch& update_scratch, uint32_t other_team, bool comes)
      : rails(our_rails), args(update_args), scratch(update_scratch), number(other_team) {
    const HtListHead head = comes ? dev::ld(at<HtListHead>(0)) : HtListHead{};
    list = {args.group.layout.team_size, args.group.layout.record_units(), head.num_parcels, head.num_records};
  }

  template <class T>
  EP_DEVICE const T* at(uint64_t offset) const {
    return rails.template in<T>(number, rails.network.layout.list + offset);
  }
  // What goes to a rank of the team. With masks that follows from the counts, whether or not the list has come.
  EP_DEVICE HtOutgoing outgoing(uint32_t place) const {
    if constexpr (has_masks(kPeers)) return scratch.guest_rows[number * list.team_size + place];
    return *at<HtOutgoing>(list.outgoing_at(place));
  }
  EP_DEVICE uint32_t first_send() const { return (1 + number) * args.handle.layout.team_sends; }

  // One thread calls it. `exists`: there are such rows.
  EP_DEVICE void remember_flow(uint32_t place, bool exists) const {
    const HtOutgoing it = outgoing(place);
    *args.handle.outgoing(rails.team(number) * list.team_size + place) = {first_send() + it.first, it.row,
                                                                          exists ? it.num_rows : 0};
  }
  EP_DEVICE void remember_guest(uint32_t parcel) const {
    *args.handle.num_dests(rails.first_guest(number) + parcel) = *at<uint8_t>(list.num_dests_at(parcel));
  }
  // Remembers a guest's row, and passes its record on.
  template <bool kExpertMajor>
  EP_DEVICE void receive_row(const Operation<kPeers>& op, uint32_t record) const {
    const Place place = place_of(record);
    Unit unit = record_unit<kExpertMajor>(place, record, 0);
    const uint32_t num_hits = unit.word[0] >> 16 & 0xff, guest = rails.first_guest(number) + unit.word[1];
    const HtHits hits{static_cast<uint8_t>(unit.epoch), static_cast<uint8_t>(num_hits)};
    const uint64_t send = uint64_t{first_send()} + record;
    const uint32_t slot = kExpertMajor ? unit.word[2] : place.row;
    *args.handle.send(send) = {guest, num_hits == 0 ? HtHandleLayout::kNoSlot : slot};
    *args.handle.guest_hits(send) = hits;
    if (num_hits > 0) {
      *args.handle.dest(guest, home_place(unit)) = {static_cast<uint16_t>(place.rank), hits, place.row};
    }
    if (!takes_part(op, place.rank) || !op.reaches(place.rank)) return;
    unit.word[1] = guest;
    if (kExpertMajor && args.group.layout.slots_are_of_hits) set_home_place(unit, hits.first);
    send_record_unit(op, place.rank, place.row, 0, unit);
    for (uint32_t i = 1; 3 * i < num_hits + 2; ++i) {
      send_record_unit(op, place.rank, place.row, i, record_unit<kExpertMajor>(place, record, i));
    }
  }
  // The same for one of the rows whose list does not come: it stays, and has no hits.
  EP_DEVICE void lose_row(const Operation<kPeers>& op, uint32_t record) const {
    const Place place = place_of(record);
    *args.handle.send(uint64_t{first_send()} + record) = {0, HtHandleLayout::kNoSlot};
    if (!takes_part(op, place.rank) || !op.reaches(place.rank)) return;
    send_record_unit(op, place.rank, place.row, 0, Unit{{rails.peer(number), 0, 0}, 0});
  }

 private:
  // Where a record's row goes.
  struct Place {
    uint32_t number, rank, row;
  };
  EP_DEVICE Place place_of(uint32_t record) const {
    uint32_t place = 0;
    while (place + 1 < list.team_size && record >= outgoing(place + 1).first) ++place;
    return {place, args.group.first_rank + place, outgoing(place).row + (record - outgoing(place).first)};
  }
  // With masks, hits have got their slots; where rows are dropped, by the tallies.
  template <bool kExpertMajor>
  EP_DEVICE Unit record_unit(const Place& place, uint32_t record, uint32_t i) const {
    Unit unit = dev::ld(at<Unit>(list.record_at(record, i)));
    if (has_masks(kPeers) && kExpertMajor && !args.drops) {
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) {
        if (i > 0 || j == 2) unit.word[j] = slot_of(place, unit.word[j]);
      }
    }
    return unit;
  }
  EP_DEVICE uint32_t slot_of(const Place& place, uint32_t hit) const {
    const uint32_t max_tokens = args.group.layout.max_tokens, local = hit / max_tokens;
    const uint32_t zone = (number * list.team_size + place.number) * args.group.num_local_experts + local;
    return scratch.guest_slots[zone] + hit % max_tokens;
  }
};

}  // namespace nccl_ep::ht
