// SPDX-License-Identifier: Apache-2.0
// What travels ahead of the rows in dispatch: for each token its hits on the receiving rank, and counts.
//
// The sender numbers the rows: within each expert (and within the receiving rank) by token. So a receiver
// finds the final place of a row from the row's own units and the counts of the lower-ranked sources, in
// whatever order rows arrive: rows lie by (source rank, token).
//
//   counts[source] unit 0      {tokens of the source, its rows for this rank, -}
//   counts[source] unit 1 + i  {rows for experts 3i, 3i + 1, 3i + 2}                      expert-major
//   routes[source][token][hit] {local expert | k << 16, value, number of hits | row << 8}
//                              value: expert-major the row's number in the expert, rank-major the weight's
//                              bits row: the row's number among the source's rows for this rank
//   A token without hits sends one unit that says so.
#pragma once

#include "ll/routing.cuh"

namespace nccl_ep::ll {

struct Route {
  uint32_t expert, k, value, num_hits, row;

  EP_DEVICE Unit encode(uint32_t epoch) const { return Unit{{expert | k << 16, value, num_hits | row << 8}, epoch}; }
  EP_DEVICE static Route decode(const Unit& unit) {
    return {unit.word[0] & 0xffff, unit.word[0] >> 16, unit.word[1], unit.word[2] & 0xff, unit.word[2] >> 8};
  }
};

// The experts [begin, end) of the receiving rank whose token sets are in shared memory together.
struct ExpertPass {
  uint32_t begin, end;
  EP_DEVICE uint32_t size() const { return end - begin; }
  EP_DEVICE bool has(uint32_t expert) const { return expert >= begin && expert < end; }
};

// A block's shared memory while it sends routes to one peer.
struct RouteScratch {
  struct Counts {
    uint32_t has_repeats;  // some token may name an expert twice
    uint32_t num_rows;     // tokens that go to the peer
  };
  uint32_t num_topk;
  uint32_t num_words;    // of one set of tokens
  TokenBits tokens;      // that go to the peer
  uint32_t* place_hits;  // for each place of the top-k table, row by row, one bit: whether it is a hit on the peer
  Counts* counts;
  uint32_t* experts;  // [expert of the pass]: how many tokens go to it, then which

  EP_DEVICE RouteScratch(unsigned char* shared, const LlRouting& routing)
      : num_topk(routing.num_topk),
        num_words((num_tokens(routing.tokens) + 31) / 32),
        tokens{reinterpret_cast<uint32_t*>(shared)},
        place_hits(tokens.word + num_words),
        counts(reinterpret_cast<Counts*>(place_hits + (num_tokens(routing.tokens) * num_topk + 31) / 32 + 2)),
        experts(reinterpret_cast<uint32_t*>(counts + 1)) {}
  EP_DEVICE uint32_t* rows_of_expert(uint32_t i) const { return experts + i * (1 + num_words); }
  EP_DEVICE TokenBits of_expert(uint32_t i) const { return {rows_of_expert(i) + 1}; }

  // Which places of a token's row are hits.
  EP_DEVICE uint64_t hits(uint32_t token) const {
    const uint32_t first = token * num_topk, shift = first % 32;
    const uint32_t* words = place_hits + first / 32;
    uint64_t bits = (uint64_t{words[1]} << 32 | words[0]) >> shift;
    if (shift + num_topk > 64) bits |= uint64_t{words[2]} << (64 - shift);
    return bits & ~uint64_t{0} >> (64 - num_topk);
  }
};

// How many experts of a peer are told apart. Rank-major none are, which takes one pass.
template <Layout kLayout>
EP_DEVICE uint32_t num_counted_experts(const LlDispatchArgs& args) {
  return kLayout == Layout::expert_major ? args.group.num_local_experts : 1;
}

template <Layout kLayout>
EP_DEVICE ExpertPass pass_from(const LlDispatchArgs& args, uint32_t begin) {
  const uint32_t rest = num_counted_experts<kLayout>(args) - begin;
  return {begin, begin + (rest < args.experts_per_pass ? rest : args.experts_per_pass)};
}

// Whether the id at a place is a hit on `peer`. If its expert is one of the pass, it is noted who sends to it.
template <Layout kLayout>
EP_DEVICE bool note_id(const LlDispatchArgs& args, const RouteScratch& scratch, uint32_t peer, ExpertPass pass,
                       uint32_t place, int64_t id) {
  const uint32_t num_local = args.group.num_local_experts, token = place / scratch.num_topk;
  if (id >= int64_t{args.group.num_ranks} * num_local) {
    report(args.group, {FaultRecord::kBadExpert, Wait::none, 0, 0, token, 0, id});
  }
  const int64_t expert = id - int64_t{peer} * num_local;
  if (expert < 0 || expert >= num_local) return false;
  if (kLayout == Layout::expert_major && pass.has(expert)) {
    if (scratch.of_expert(expert - pass.begin).insert(token)) {
      dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.rows_of_expert(expert - pass.begin), 1u);
    } else {
      dev::st_relaxed<dev::Scope::block>(&scratch.counts->has_repeats, 1u);
    }
  }
  return true;
}

// In the expert-major layout an expert that a token names more than once is one hit, at its first place.
EP_DEVICE void drop_repeats(const LlDispatchArgs& args, const RouteScratch& scratch, const WarpTeam& team) {
  for_each_place(
      args.routing, team, [] {},
      [&](uint32_t place, int64_t id) {
        const uint32_t token = place / scratch.num_topk;
        const bool hit = scratch.place_hits[place / 32] >> dev::lane_idx() & 1;
        const bool stays = hit && !is_repeated(args.routing, token, place - token * scratch.num_topk, id);
        const uint32_t hits = dev::ballot(stays);
        dev::sync_warp();  // the word is about to be replaced
        if (dev::lane_idx() == 0) scratch.place_hits[place / 32] = hits;
      });
}

// Which tokens have hits.
EP_DEVICE void collect_tokens(const LlDispatchArgs& args, const RouteScratch& scratch, const WarpTeam& team) {
  const uint32_t count = num_tokens(args.routing.tokens);
  for (uint32_t token = team.thread_idx(); token - dev::lane_idx() < count; token += team.num_threads()) {
    const uint32_t bits = dev::ballot(token < count && scratch.hits(token) != 0);
    if (dev::lane_idx() != 0) continue;
    scratch.tokens.word[token / 32] = bits;
    dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(&scratch.counts->num_rows, dev::popc(bits));
  }
}

// Finds the hits on `peer` and, for the experts of the pass, who sends to them. All warps of the team call it, and meet
// before they use them.
template <Layout kLayout>
EP_DEVICE void collect_hits(const LlDispatchArgs& args, const RouteScratch& scratch, const WarpTeam& team,
                            uint32_t peer, ExpertPass pass) {
  const auto clear = [&] {
    const uint32_t num_experts = kLayout == Layout::expert_major ? pass.size() : 0;
    const uint32_t num_words = sizeof(RouteScratch::Counts) / 4 + num_experts * (1 + scratch.num_words);
    uint32_t* words = &scratch.counts->has_repeats;
#pragma unroll 1
    for (uint32_t i = team.thread_idx(); i < num_words; i += team.num_threads()) words[i] = 0;
    team.sync(kRoutesBarrier);
  };
  for_each_place(args.routing, team, clear, [&](uint32_t place, int64_t id) {
    const uint32_t hits = dev::ballot(note_id<kLayout>(args, scratch, peer, pass, place, id));
    if (dev::lane_idx() == 0) scratch.place_hits[place / 32] = hits;
  });
  team.sync(kRoutesBarrier);
  const bool has_other_experts = pass.size() < args.group.num_local_experts;  // whose repeats go unnoticed
  if (kLayout == Layout::expert_major && (scratch.counts->has_repeats || has_other_experts)) {
    drop_repeats(args, scratch, team);
    team.sync(kRoutesBarrier);
  }
  collect_tokens(args, scratch, team);
}

// Calls send(number, unit) for the units with counts that the pass has, tagged with `epoch`. All followers call it.
template <Layout kLayout, class Send>
EP_DEVICE void for_each_count_unit(const LlDispatchArgs& args, const RouteScratch& scratch, ExpertPass pass,
                                   uint32_t epoch, Send send) {
  if (pass.begin == 0 && dev::thread_idx() == followers().num_threads() - 1) {
    send(0, Unit{{num_tokens(args.routing.tokens), scratch.counts->num_rows, 0}, epoch});
  }
  if constexpr (kLayout == Layout::expert_major) {
    for (uint32_t i = 3 * dev::thread_idx(); i < pass.size(); i += 3 * followers().num_threads()) {
      Unit unit{{0, 0, 0}, epoch};
#pragma unroll
      for (uint32_t j = 0; j < 3; ++j) {
        if (i + j < pass.size()) unit.word[j] = *scratch.rows_of_expert(i + j);
      }
      send(1 + (pass.begin + i) / 3, unit);
    }
  }
}

// A place of the top-k table, and which places of its token's row are hits.
struct Place {
  uint32_t index, token, k;
  uint64_t hits;

  EP_DEVICE Place(const RouteScratch& scratch, uint32_t place)
      : index(place), token(place / scratch.num_topk), k(place - token * scratch.num_topk), hits(scratch.hits(token)) {}
  EP_DEVICE bool is_hit() const { return hits >> k & 1; }
  // Of the token's hits, those before this one.
  EP_DEVICE uint32_t hits_before() const { return dev::popc(hits & ((uint64_t{1} << k) - 1)); }
};

// Calls send(place, route) for the hits on `peer` whose expert is one of the pass, and send_none(token) for the tokens
// without hits, in the first pass. All followers call it.
template <Layout kLayout, class SendNone, class Send>
EP_DEVICE void for_each_route(const LlDispatchArgs& args, const RouteScratch& scratch, uint32_t peer, ExpertPass pass,
                              SendNone send_none, Send send) {
  const uint32_t num_places = num_tokens(args.routing.tokens) * scratch.num_topk;
#pragma unroll 1
  for (uint32_t i = dev::thread_idx(); i < num_places; i += followers().num_threads()) {
    const Place place(scratch, i);
    if (place.hits == 0 && place.k == 0 && pass.begin == 0) send_none(place.token);
    if (!place.is_hit()) continue;
    const int64_t id = widen(args.routing, load_id(args.routing, place.token, place.k));
    const uint32_t expert = static_cast<uint32_t>(id - int64_t{peer} * args.group.num_local_experts);
    if (kLayout == Layout::expert_major && !pass.has(expert)) continue;
    Route route{expert, place.k, 0, dev::popc(place.hits), scratch.tokens.count_before(place.token)};
    if constexpr (kLayout == Layout::expert_major) {
      route.value = scratch.of_expert(expert - pass.begin).count_before(place.token);
    } else {
      route.value = dev::bits_from_float(dev::ld_nc(args.topk_weights + i));
    }
    send(place, route);
  }
}

// What a block sends at a time: to one peer, about some of its experts.
template <Layout kLayout>
struct RouteTask {
  uint32_t i;  // which peer, counted from the next rank on
  ExpertPass pass;

  EP_DEVICE explicit RouteTask(const LlDispatchArgs& args) : i(dev::block_idx()), pass(pass_from<kLayout>(args, 0)) {}
  EP_DEVICE bool exists(const LlDispatchArgs& args) const { return i < args.group.num_ranks; }
  EP_DEVICE uint32_t peer(const LlDispatchArgs& args) const { return peer_of(args.group, i); }
  EP_DEVICE bool is_last_pass(const LlDispatchArgs& args) const {
    return pass.end == num_counted_experts<kLayout>(args);
  }
  EP_DEVICE void advance(const LlDispatchArgs& args) {
    pass = pass_from<kLayout>(args, pass.end);
    if (pass.size() > 0) return;
    pass = pass_from<kLayout>(args, 0);
    i += dev::num_blocks();
  }
  EP_DEVICE void collect(const LlDispatchArgs& args, const RouteScratch& scratch) const {
    collect_hits<kLayout>(args, scratch, followers(), peer(args), pass);
  }
};

// Calls send(task) for each task of the block, with its hits collected; those of the first one have been. All followers
// call it.
template <Layout kLayout, class Send>
EP_DEVICE void for_each_route_task(const LlDispatchArgs& args, const RouteScratch& scratch, Send send) {
  RouteTask<kLayout> task(args);
#pragma unroll 1
  while (task.exists(args)) {
    send(task);
    task.advance(args);
    if (!task.exists(args)) return;
    followers().sync(kRoutesBarrier);
    task.collect(args, scratch);
    followers().sync(kRoutesBarrier);
  }
}

// What a peer of the team must know about this rank's tokens.
template <Layout kLayout, Peers kPeers>
EP_DEVICE void send_routes(const Operation<kPeers>& op, const LlDispatchArgs& args, const RouteScratch& scratch,
                           const RouteTask<kLayout>& task) {
  const uint32_t peer = task.peer(args), source = op.group.rank;
  if (!is_active(op, peer)) return;
  // First, since every receiving block waits for them.
  for_each_count_unit<kLayout>(args, scratch, task.pass, op.epoch, [&](uint32_t number, const Unit& unit) {
    dev::st_unit(op.counts(peer, source, number), unit);
  });
  for_each_route<kLayout>(
      args, scratch, peer, task.pass,
      [&](uint32_t token) { dev::st_unit(op.route(peer, source, token, 0), Route{}.encode(op.epoch)); },
      [&](const Place& place, const Route& route) {
        dev::st_unit(op.route(peer, source, place.token, place.hits_before()), route.encode(op.epoch));
      });
}

}  // namespace nccl_ep::ll
