// SPDX-License-Identifier: Apache-2.0
// What travels ahead of the rows in dispatch: for each token its hits on the receiving rank, and counts.
//
// The sender numbers the rows: within each expert (and within the receiving rank) by token. So a receiver finds the
// final place of a row from the row's own units and the counts of the lower-ranked sources, in whatever order rows
// arrive: rows lie by (source rank, token).
//
//   counts[source] unit 0      {tokens of the source, its rows for this rank, -}
//   counts[source] unit 1 + i  {rows for experts 3i, 3i + 1, 3i + 2}                      expert-major
//   routes[source][token][hit] {local expert | k << 16, value, number of hits | row << 8}
//                              value: expert-major the row's number in the expert, rank-major the weight's bits
//                              row: the row's number among the source's rows for this rank
//   A token without hits sends one unit that says so.
#pragma once

#include "ll/routing.cuh"

namespace nccl_ep::ll {

struct Route {
  uint32_t expert, k, value, num_hits, row;

  EP_DEVICE Unit encode(uint32_t epoch) const {
    return Unit{{expert | k << 16, value, num_hits | row << 8}, epoch};
  }
  EP_DEVICE static Route decode(const Unit& unit) {
    return {unit.word[0] & 0xffff, unit.word[0] >> 16, unit.word[1], unit.word[2] & 0xff, unit.word[2] >> 8};
  }
};

// Which tokens have some property: one bit each.
struct TokenBits {
  uint32_t* word;

  EP_DEVICE void set(uint32_t token) const {
    dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(word + token / 32, 1u << token % 32);
  }
  // How many tokens before `token` are in the set.
  EP_DEVICE uint32_t count_before(uint32_t token) const {
    uint32_t count = dev::popc(word[token / 32] & ((1u << token % 32) - 1));
    for (uint32_t i = 0; i < token / 32; ++i) count += dev::popc(word[i]);
    return count;
  }
};

// A block's shared memory while it sends routes.
struct RouteScratch {
  uint32_t num_words;  // of one set of tokens
  uint32_t* sets;      // the receiving rank's set, then one for each expert of the pass
  uint8_t* num_hits;   // [token]

  EP_DEVICE RouteScratch(unsigned char* shared, uint32_t num_tokens, uint32_t max_sets)
      : num_words((num_tokens + 31) / 32),
        sets(reinterpret_cast<uint32_t*>(shared)),
        num_hits(shared + sizeof(uint32_t) * max_sets * num_words) {}
  EP_DEVICE TokenBits of_rank() const { return {sets}; }
  EP_DEVICE TokenBits of_expert(uint32_t i) const { return {sets + (1 + i) * num_words}; }
};

// The experts [begin, end) whose token sets are in shared memory together.
struct ExpertPass {
  uint32_t begin, end;
  EP_DEVICE bool has(uint32_t expert) const { return expert >= begin && expert < end; }
};

template <Layout kLayout>
EP_DEVICE void collect_token_sets(const LlDispatchArgs& args, const RouteScratch& scratch, uint32_t peer,
                                  ExpertPass pass) {
  const uint32_t num_sets = 1 + pass.end - pass.begin;
  for (uint32_t i = dev::thread_idx(); i < num_sets * scratch.num_words; i += dev::num_threads()) scratch.sets[i] = 0;
  dev::sync_block();
  for (uint32_t token = dev::thread_idx(); token < args.routing.num_tokens; token += dev::num_threads()) {
    const uint32_t num_hits =
        for_each_hit(args.group, args.routing, token, peer, kLayout == Layout::expert_major,
                     [&](uint32_t, uint32_t, uint32_t expert) {
                       if (pass.has(expert)) scratch.of_expert(expert - pass.begin).set(token);
                     });
    if (num_hits > 0) scratch.of_rank().set(token);
    scratch.num_hits[token] = static_cast<uint8_t>(num_hits);
  }
  dev::sync_block();
}

template <Layout kLayout>
EP_DEVICE void send_token_routes(const Operation& op, const LlDispatchArgs& args, const RouteScratch& scratch,
                                 uint32_t peer, ExpertPass pass) {
  for (uint32_t token = dev::thread_idx(); token < args.routing.num_tokens; token += dev::num_threads()) {
    const uint32_t num_hits = scratch.num_hits[token];
    Unit* units = op.route(peer, op.group.rank, token, 0);
    if (num_hits == 0) {
      if (pass.begin == 0) dev::st_unit(units, Route{}.encode(op.epoch));
      continue;
    }
    const uint32_t row = scratch.of_rank().count_before(token);
    for_each_hit(args.group, args.routing, token, peer, kLayout == Layout::expert_major,
                 [&](uint32_t hit, uint32_t k, uint32_t expert) {
                   if (kLayout == Layout::rank_major) {
                     const float* weights = args.topk_weights + uint64_t{token} * args.routing.num_topk;
                     const uint32_t weight = dev::bits_from_float(dev::ld_nc(weights + k));
                     dev::st_unit(units + hit, Route{expert, k, weight, num_hits, row}.encode(op.epoch));
                   } else if (pass.has(expert)) {
                     const uint32_t number = scratch.of_expert(expert - pass.begin).count_before(token);
                     dev::st_unit(units + hit, Route{expert, k, number, num_hits, row}.encode(op.epoch));
                   }
                 });
  }
}

template <Layout kLayout>
EP_DEVICE void send_counts(const Operation& op, const LlDispatchArgs& args, const RouteScratch& scratch,
                           uint32_t peer, ExpertPass pass) {
  const uint32_t num_tokens = args.routing.num_tokens, source = op.group.rank;
  const auto count = [&](TokenBits set) { return num_tokens == 0 ? 0u : set.count_before(num_tokens - 1) +
      (set.word[(num_tokens - 1) / 32] >> ((num_tokens - 1) % 32) & 1); };
  if (pass.begin == 0 && dev::thread_idx() == 0) {
    dev::st_unit(op.counts(peer, source, 0), Unit{{num_tokens, count(scratch.of_rank()), 0}, op.epoch});
  }
  if (kLayout == Layout::rank_major) return;
  for (uint32_t first = pass.begin + 3 * dev::thread_idx(); first < pass.end; first += 3 * dev::num_threads()) {
    Unit unit{{0, 0, 0}, op.epoch};
    for (uint32_t i = 0; i < 3 && first + i < pass.end; ++i) {
      unit.word[i] = count(scratch.of_expert(first + i - pass.begin));
    }
    dev::st_unit(op.counts(peer, source, 1 + first / 3), unit);
  }
}

// One block sends everything that `peer` must know about this rank's tokens.
template <Layout kLayout>
EP_DEVICE void send_routes(const Operation& op, const LlDispatchArgs& args, unsigned char* shared, uint32_t peer) {
  const RouteScratch scratch(shared, args.routing.num_tokens, 1 + args.experts_per_pass);
  const uint32_t num_experts = kLayout == Layout::expert_major ? op.group.num_local_experts : 1;
  for (uint32_t first = 0; first < num_experts; first += args.experts_per_pass) {
    const uint32_t rest = num_experts - first;
    const ExpertPass pass{first, first + (rest < args.experts_per_pass ? rest : args.experts_per_pass)};
    collect_token_sets<kLayout>(args, scratch, peer, pass);
    send_token_routes<kLayout>(op, args, scratch, peer, pass);
    send_counts<kLayout>(op, args, scratch, peer, pass);
    dev::sync_block();
  }
}

// What a receiving warp knows of one token of a source.
struct ReceivedToken {
  bool exists;             // the source has that many tokens
  bool ok;                 // nothing timed out
  uint32_t rows_of_source;
  Route route;             // of hit 0; num_hits and row hold for the token
};

EP_DEVICE ReceivedToken await_token(const Operation& op, uint32_t source, uint32_t token) {
  const uint32_t rank = op.group.rank;
  ReceivedToken received{};
  Unit unit;
  received.ok = wait_for_unit(op.group, Wait::token_counts, source, token, op.epoch, op.counts(rank, source, 0), unit);
  received.exists = received.ok && token < unit.word[0];
  received.rows_of_source = unit.word[1];
  if (received.exists) {
    received.ok = wait_for_unit(op.group, Wait::token_routes, source, token, op.epoch,
                                op.route(rank, source, token, 0), unit);
    received.route = Route::decode(unit);
  }
  received.ok = dev::all(received.ok);
  received.exists = dev::all(received.exists);
  return received;
}

}  // namespace nccl_ep::ll
