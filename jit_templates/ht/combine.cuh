// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine: every row's result back to its home rank and added up there, in one launch.
//
// Parties: some warps push results to their home ranks; expert-major that is the sum of a row's slots, and this rank's own
// sums go to its own window alike. One warp of each pushing block raises the flags of what has arrived. The others wait for
// the results of this rank's tokens and add them in the order of the ranks, in fp32, and in the backward pass move the
// weights' gradients first. What needs no sum is read where it lies if it is this rank's. Each sum has a fixed order and is
// rounded once, so results are bit-reproducible. Memory: the home ranks' windows. Waits: for peers to start, for rows to
// arrive.
#pragma once

#include "ht/gradients.cuh"
#include "ht/mover.cuh"
#include "ht/row_sums.cuh"
#include "ht/tickets.cuh"

namespace nccl_ep::ht {

// Pushes rows of a flow: the results for the ranks of a team, to the rank of this team that hosts them. Calls
// push(row, to, flag) for those that this warp pushes: what it is, its home slot, and the flag there. The lanes look them up.
template <class Others, class Push, Peers kPeers>
EP_DEVICE void push_flow(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others, uint32_t flow,
                         Push push) {
  const HtGroupState& group = op.group;
  const uint32_t host = others.host_of(group, flow), begin = *args.handle.source(flow);
  const Rows homes = window_rows(group, host);
  for_each_ticket(op, args.move, flow, *args.handle.source(flow + 1) - begin, [&](uint32_t first, uint32_t end) {
    const uint32_t row = first + dev::lane_idx();
    const auto standing = op.standing_of(host);
    const ReceivedRow mine = row < end ? look_up_row(args.handle, begin + row, flow) : ReceivedRow{};
    if constexpr (Operation<kPeers>::kMasks) {
      // A host that gets nothing may have gone on.
      if (!dev::any(mine.exists) || !op.warp_reaches(host, standing)) return;
    }
    for (uint32_t i = 0; first + i < end; ++i) {
      const ReceivedRow it = mine.from_lane(i);
      if (it.home.num_hits == 0) continue;
      const uint64_t slot = group.layout.home_slot(it.home.token, it.home.place);
      push(it, homes.at(slot), flag_of(group, host, slot));
    }
  });
}

// All flows, own ones first. `others` has those for other teams.
template <class Others, class Push, Peers kPeers>
EP_DEVICE void for_each_result(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                               bool with_own, Push push) {
  const auto num_rows = [&](uint32_t flow) { return *args.handle.source(flow + 1) - *args.handle.source(flow); };
  const auto push_rows = [&](uint32_t flow) { push_flow(op, args, others, flow, push); };
  for_each_own_flow(op, args.move, with_own, num_rows, push_rows);
  others.for_each_flow(op, with_own, num_rows, push_rows);
}

// Flat: a row is pushed as it is, by way of shared memory.
template <class Others, Peers kPeers>
EP_DEVICE void push_results(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                            unsigned char* shared, FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  Mover mover(args.move, true, queue, shared + dev::warp_idx() * args.move.mover_bytes());
  if (dev::lane_idx() == 0) mover.open();
  for_each_result(op, args, others, false, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    if (dev::lane_idx() == 0) mover.move(from.at(it.row), to, flag);
  });
  if (dev::lane_idx() != 0) return;
  mover.drain();
  mover.close();
}

// Expert-major: whether a result is read where it lies, since who has it hosts the token.
EP_DEVICE bool is_in_place(const HtGroupState& group, uint32_t other, uint32_t num_hits) {
  return other == group.rank && num_hits == 1;
}

// Expert-major: the sum of a row's slots goes straight from registers to its home slot.
template <DType kDType, class Others, Peers kPeers>
EP_DEVICE void push_sums(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others, Addend* addends,
                         FlagQueue& queue) {
  const Rows from = rows_of(args.tokens, args.move.row_bytes);
  FlagSender flags{queue};
  for_each_result(op, args, others, true, [&](const ReceivedRow& it, unsigned char* to, uint32_t* flag) {
    if (is_in_place(op.group, others.host_of(op.group, it.source), it.home.num_hits)) return;
    for (uint32_t i = dev::lane_idx(); i < it.home.num_hits; i += 32) addends[i] = from.at(it.hit(args.handle, i));
    if (dev::lane_idx() == 0) flags.add(flag);
    dev::sync_warp();
    add_up<kDType>(addends, it.home.num_hits, Span{0, args.move.row_bytes}, to);
    dev::sync_warp();  // what all lanes have stored is one lane's to publish
    if (dev::lane_idx() == 0) flags.finish(flags.num_added);
  });
  if (dev::lane_idx() == 0) flags.close();
}

// This rank's results that are read where they lie.
template <bool kExpertMajor>
struct OwnResults {
  const HtCombineArgs& args;

  EP_DEVICE bool has(const HtDest& dest) const {
    return kExpertMajor ? is_in_place(args.group, dest.rank, dest.hits.count) : dest.rank == args.group.rank;
  }
  EP_DEVICE Addend at(const HtDest& dest) const {
    return rows_of(args.tokens, args.move.row_bytes).at(kExpertMajor ? *args.handle.hit(dest.row, 0) : dest.row);
  }
};

// Lists what some lanes have, without gaps. The whole warp calls it.
EP_DEVICE void list_those(uint32_t lanes, Addend mine, Addend* addends, uint32_t& num_addends) {
  const uint32_t before = lanes & ((1u << dev::lane_idx()) - 1);
  if (lanes >> dev::lane_idx() & 1) addends[num_addends + dev::popc(before)] = mine;
  num_addends += dev::popc(lanes);
}

// Lists what is added up for a hosted token as soon as it is there: the results of the team's ranks, in their order, then
// the sums of other teams, in theirs. With masks, what does not come since its rank is lost is left out. False: something did
// not come, or the group has failed.
template <class Own, class Others, Peers kPeers>
EP_DEVICE bool list_results(const Operation<kPeers>& op, const HtCombineArgs& args, const Own& own,
                            const Others& others, uint32_t token, Addend* addends, uint32_t& num_addends) {
  const HtGroupState& group = op.group;
  const Rows arrived = window_rows(group, group.rank);
  const uint32_t num_dests = *args.handle.num_dests(token), max_dests = args.handle.layout.max_dests;
  dev::sync_warp();  // the last token's addends are about to be replaced
  num_addends = has_masks(kPeers) ? 0 : num_dests;
  for (uint32_t first = 0; first < max_dests; first += 32) {
    const uint32_t i = first + dev::lane_idx();
    HtDest dest = i < max_dests ? dev::ld(args.handle.dest(token, i)) : HtDest{};
    const bool exists = i < num_dests;
    if (!exists) dest = {};  // there is anything
    const bool is_here = exists && others.is_in_team(group, dest.rank);
    const uint64_t slot = group.layout.home_slot(token, is_here ? i : 0);
    const bool in_place = own.has(dest);
    Addend mine = nullptr;
    if (exists) mine = !is_here ? others.sum_of(dest) : in_place ? own.at(dest) : arrived.at(slot);
    if (!has_masks(kPeers) && exists) addends[i] = mine;  // all come, and nobody waits longer than for the last one
    uint32_t lost = 0;
    if (!await_rows(op, {Wait::combine_row, dest.rank, token}, is_here && !in_place, slot, lost)) return false;
    if (!others.await_sum(op, dest, exists && !is_here, lost)) return false;
    if constexpr (!has_masks(kPeers)) continue;
    list_those(dev::ballot(exists) & ~lost, mine, addends, num_addends);
  }
  dev::sync_warp();
  return true;
}

// What a warp adds up at a time: a token's row or, of the last tokens, a part of one, so that nobody is left with much when
// the last rows have come.
struct SumItems {
  static constexpr uint32_t kPartBytes = 4096;
  uint32_t num_whole, num_parts, row_bytes, count;

  EP_DEVICE SumItems(const HtCombineArgs& args) : row_bytes(args.move.row_bytes) {
    num_parts = static_cast<uint32_t>(div_up(row_bytes, kPartBytes));
    const uint32_t num_cut = dev::num_blocks() * dev::num_warps() / num_parts;  // a part for each warp
    const uint32_t num_tokens = args.handle.totals()->num_tokens;
    num_whole = num_tokens > num_cut ? num_tokens - num_cut : 0;
    count = num_whole + (num_tokens - num_whole) * num_parts;
  }
  EP_DEVICE uint32_t token(uint32_t i) const { return i < num_whole ? i : num_whole + (i - num_whole) / num_parts; }
  EP_DEVICE Span span(uint32_t i) const {
    if (i < num_whole) return {0, row_bytes};
    const uint32_t begin = (i - num_whole) % num_parts * kPartBytes;
    return {begin, row_bytes - begin < kPartBytes ? row_bytes : begin + kPartBytes};
  }
};

// Has the sums of guests made, for which others wait, by sum_guest(number), and then those of this rank's tokens, by
// sum_token(token, span, out). False of either ends it.
template <class Others, class SumGuest, class SumToken, Peers kPeers>
EP_DEVICE void for_each_sum(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                            SumGuest sum_guest, SumToken sum_token) {
  const SumItems items(args);
  const uint32_t num_guests = others.num_guests();
  for (bool ok = true; ok;) {
    const uint32_t ticket = take_next(op, args.move), i = ticket - num_guests;
    if (ticket < num_guests) {
      ok = sum_guest(ticket);
      continue;
    }
    if (i >= items.count) return;
    const uint32_t token = items.token(i);
    ok = sum_token(token, items.span(i), args.out_tokens + uint64_t{token} * items.row_bytes);
  }
}

template <bool kExpertMajor, DType kDType, class Others, Peers kPeers>
EP_DEVICE void collect_results(const Operation<kPeers>& op, const HtCombineArgs& args, const Others& others,
                               Addend* addends) {
  const auto sum_guest = [&](uint32_t number) {
    return others.template sum_guest<kExpertMajor, kDType>(op, number, addends);
  };
  for_each_sum(op, args, others, sum_guest, [&](uint32_t token, const Span& span, unsigned char* out) {
    uint32_t num_addends = 0;
    if (!list_results(op, args, OwnResults<kExpertMajor>{args}, others, token, addends, num_addends)) return false;
    add_up<kDType>(addends, num_addends, span, out);
    return true;
  });
}

// Other teams, where there are none (combine_remote.cuh has those that there are).
template <Peers kOthers = Peers::team>
struct NoOthers {
  static constexpr Peers kPeers = kOthers;
  static constexpr bool kExist = false;

  EP_DEVICE static NoRails rails() { return {}; }
  EP_DEVICE static bool is_in_team(const HtGroupState&, uint32_t) { return true; }
  EP_DEVICE static uint32_t host_of(const HtGroupState&, uint32_t source) { return source; }
  EP_DEVICE static uint64_t home_slot(const HtGroupState& group, uint32_t token, uint32_t i, const HtDest&) {
    return group.layout.home_slot(token, i);
  }
  EP_DEVICE static uint32_t num_guests() { return 0; }
  template <class... Args>
  EP_DEVICE static void for_each_flow(const Args&...) {}
  EP_DEVICE static bool await_sum(const Operation<kPeers>&, const HtDest&, bool, uint32_t&) { return true; }
  EP_DEVICE static Addend sum_of(const HtDest&) { return nullptr; }
  template <bool kExpertMajor, DType kDType>
  EP_DEVICE static bool sum_guest(const Operation<kPeers>&, uint32_t, Addend*) {
    return true;
  }
  template <class Put>
  EP_DEVICE static bool receive_gradients(const Operation<kPeers>&, const HtDest&, Put) {
    return true;
  }
  EP_DEVICE static void await_all(const Operation<kPeers>&) {}
};

// What combine does around its rows: push(op, addends, shared, queue) is for the warps that push, collect(op, addends) for all,
// when they have pushed.
template <bool kExpertMajor, class Others, class Push, class Collect>
EP_DEVICE void combine_by(const HtCombineArgs& args, const Others& others, Push push, Collect collect) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Addend, addends, [kMoveWarps][kMaxTopk]);
  EP_SHARED(FlagQueue, queues, [kMoveWarps]);
  open_queues(queues);
  const HtStart start = begin(args.group, others.rails());
  const Operation<Others::kPeers> op(args, start);
  const Crews crews(args.move, true);
  Addend* warp_addends = addends[dev::warp_idx()];
  if (start.ready) {
    const bool has_gradients = crews.receivers.has_me() && args.topk_weights;
    if (crews.pushers.has_me()) {
      push(op, warp_addends, shared, queues[dev::warp_idx()]);
    } else if (crews.raisers.has_me()) {
      raise_flags(op, queues, args.move.push_warps);
    } else if (has_gradients && await_peers(op)) {
      send_gradients<kExpertMajor>(op, args, crews.receivers);
      if (!Others::kExist) collect_gradients(op, args, others, crews.receivers);
    }
    dev::sync_warp();
    if (crews.have_me()) collect(op, warp_addends);
    // Other teams have gradients only when somebody has collected those of guests.
    if (Others::kExist && has_gradients) collect_gradients(op, args, others, crews.receivers);
    if (crews.receivers.has_me() && crews.receivers.worker() == 0) others.await_all(op);
  }
  finish_pushing(op, args.move);
}

template <bool kExpertMajor, DType kDType, class Others>
EP_DEVICE void combine_with(const HtCombineArgs& args, const Others& others) {
  using Op = Operation<Others::kPeers>;
  const auto push = [&](const Op& op, Addend* addends, unsigned char* shared, FlagQueue& queue) {
    if constexpr (kExpertMajor) {
      push_sums<kDType>(op, args, others, addends, queue);
    } else {
      push_results(op, args, others, shared, queue);
    }
  };
  combine_by<kExpertMajor>(args, others, push, [&](const Op& op, Addend* addends) {
    collect_results<kExpertMajor, kDType>(op, args, others, addends);
  });
}

template <bool kExpertMajor, DType kDType, Peers kPeers = Peers::team>
EP_DEVICE void combine(const HtCombineArgs& args) {
  combine_with<kExpertMajor, kDType>(args, NoOthers<kPeers>());
}

}  // namespace nccl_ep::ht
