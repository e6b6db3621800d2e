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
  EP_DEVICE bool has(uint32_t expert) const { return expert >= begin && expert < end; }
};

// A block's shared memory while it sends routes to one peer.
struct RouteScratch {
  uint32_t num_words;  // of one set of tokens
  uint32_t* hits;      // [token][2]: which places of the top-k row are hits on the peer
  uint32_t* experts;   // [expert of the pass][word]

  EP_DEVICE RouteScratch(const RankSets& sets, const LlGroupState& group, uint32_t num_tokens)
      : num_words(sets.num_words), hits(sets.of(group.num_ranks).word), experts(hits + 2 * num_tokens) {}
  EP_DEVICE TokenBits of_expert(uint32_t i) const { return {experts + i * num_words}; }

  EP_DEVICE bool is_hit(uint32_t token, uint32_t k) const { return hits[2 * token + k / 32] >> k % 32 & 1; }
  EP_DEVICE uint32_t num_hits(uint32_t token) const {
    return dev::popc(hits[2 * token]) + dev::popc(hits[2 * token + 1]);
  }
  EP_DEVICE uint32_t hit_of(uint32_t token, uint32_t k) const {
    const uint32_t below = (1u << k % 32) - 1;
    return k < 32 ? dev::popc(hits[2 * token] & below)
                  : dev::popc(hits[2 * token]) + dev::popc(hits[2 * token + 1] & below);
  }
};

// Finds the hits on `peer` and, for the experts of the pass, who sends to them. In the expert-major layout an expert that
// is repeated in a row is one hit.
template <Layout kLayout>
EP_DEVICE void collect_hits(const LlDispatchArgs& args, const RouteScratch& scratch, uint32_t peer, ExpertPass pass) {
  const auto clear = [&] {
    const uint32_t num_sets = kLayout == Layout::expert_major ? pass.end - pass.begin : 0;
    clear_words(scratch.hits, 2 * args.routing.num_tokens + num_sets * scratch.num_words);
    dev::sync_block();
  };
  const int64_t first_expert = int64_t{peer} * args.group.num_local_experts;
  for_each_place(args.routing, clear, [&](uint32_t token, uint32_t k, int64_t id) {
    const int64_t expert = id - first_expert;
    if (expert < 0 || expert >= args.group.num_local_experts) return;
    if constexpr (kLayout == Layout::expert_major) {
      if (is_repeated(args.routing, token, k, id)) return;
      if (pass.has(expert)) scratch.of_expert(expert - pass.begin).set(token);
    }
    dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(scratch.hits + 2 * token + k / 32, 1u << k % 32);
  });
  dev::sync_block();
}

// A thread for every place of the top-k table.
template <Layout kLayout>
EP_DEVICE void send_token_routes(const Operation& op, const LlDispatchArgs& args, const RankSets& sets,
                                 const RouteScratch& scratch, uint32_t peer, ExpertPass pass) {
  const uint32_t num_topk = args.routing.num_topk, num_places = args.routing.num_tokens * num_topk;
#pragma unroll 1
  for (uint32_t place = dev::thread_idx(); place < num_places; place += dev::num_threads()) {
    const uint32_t token = place / num_topk, k = place - token * num_topk;
    const uint32_t num_hits = scratch.num_hits(token);
    Unit* units = op.route(peer, op.group.rank, token, 0);
    if (num_hits == 0 && k == 0 && pass.begin == 0) dev::st_unit(units, Route{}.encode(op.epoch));
    if (!scratch.is_hit(token, k)) continue;
    const int64_t id = widen(args.routing, load_id(args.routing, token, k));
    const uint32_t expert = static_cast<uint32_t>(id - int64_t{peer} * args.group.num_local_experts);
    if (kLayout == Layout::expert_major && !pass.has(expert)) continue;
    Route route{expert, k, 0, num_hits, sets.of(peer).count_before(token)};
    if constexpr (kLayout == Layout::expert_major) {
      route.value = scratch.of_expert(expert - pass.begin).count_before(token);
    } else {
      const float* weights = args.topk_weights + uint64_t{token} * num_topk;
      route.value = dev::bits_from_float(dev::ld_nc(weights + k));
    }
    dev::st_unit(units + scratch.hit_of(token, k), route.encode(op.epoch));
  }
}

template <Layout kLayout>
EP_DEVICE void send_counts(const Operation& op, const LlDispatchArgs& args, const RankSets& sets,
                           const RouteScratch& scratch, uint32_t peer, ExpertPass pass) {
  const uint32_t source = op.group.rank, num_words = scratch.num_words;
  if (pass.begin == 0 && dev::thread_idx() == 0) {
    const Unit unit{{args.routing.num_tokens, sets.of(peer).count(num_words), 0}, op.epoch};
    dev::st_unit(op.counts(peer, source, 0), unit);
  }
  if constexpr (kLayout == Layout::expert_major) {
    for (uint32_t first = pass.begin + 3 * dev::thread_idx(); first < pass.end; first += 3 * dev::num_threads()) {
      Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
      for (uint32_t i = 0; i < 3; ++i) {
        if (first + i < pass.end) unit.word[i] = scratch.of_expert(first + i - pass.begin).count(num_words);
      }
      dev::st_unit(op.counts(peer, source, 1 + first / 3), unit);
    }
  }
}

// One block sends everything that `peer` must know about this rank's tokens.
template <Layout kLayout>
EP_DEVICE void send_routes(const Operation& op, const LlDispatchArgs& args, const RankSets& sets, uint32_t peer) {
  const RouteScratch scratch(sets, op.group, args.routing.num_tokens);
  const uint32_t num_experts = kLayout == Layout::expert_major ? op.group.num_local_experts : 1;
  for (uint32_t first = 0; first < num_experts; first += args.experts_per_pass) {
    const uint32_t rest = num_experts - first;
    const ExpertPass pass{first, first + (rest < args.experts_per_pass ? rest : args.experts_per_pass)};
    collect_hits<kLayout>(args, scratch, peer, pass);
    send_counts<kLayout>(op, args, sets, scratch, peer, pass);  // first, since every receiving block waits for them
    send_token_routes<kLayout>(op, args, sets, scratch, peer, pass);
    dev::sync_block();
  }
}

}  // namespace nccl_ep::ll
