// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine of a group of several LSA teams: combine.cuh inside the team, the network (remote.cuh) to all others.
//
// Parties: as in combine.cuh. Expert-major: the home rank puts the weights of all rows that a remote rank has from it, at
// once. The expert ranks add rows up for the team, then for remote homes, a whole row at a time, which the same warp puts.
// The home rank adds up what comes from anywhere, in rank order.
// Memory: outbox and inbox of this epoch's bank. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/combine.cuh"
#include "ll/remote.cuh"

namespace nccl_ep::ll {

// A token's weights for a rank whose experts begin at first_expert; zeros at places that lead elsewhere.
EP_DEVICE void write_weights(const LlCombineArgs& args, uint32_t token, int64_t first_expert, float* to) {
  const LlRouting& routing = args.routing;
  const float* weights = args.topk_weights + uint64_t{token} * routing.num_topk;
  for (uint32_t k = 0; k < routing.num_topk; ++k) {
    const int64_t id = widen(routing, load_id(routing, token, k));
    float sum = 0;
    if (static_cast<uint64_t>(id - first_expert) < args.group.num_local_experts) {
      sum = dev::ld_nc(weights + k);
      for (uint32_t later = k + 1; later < routing.num_topk; ++later) {
        if (widen(routing, load_id(routing, token, later)) == id) sum = dev::add(sum, dev::ld_nc(weights + later));
      }
    }
    dev::st(to + k, sum);
  }
}

// Puts to every remote rank the weights of the tokens that went there, row by row. A warp of each block calls it.
template <Peers kPeers>
EP_DEVICE void put_weights(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const LlCombineArgs& args) {
  const LlRouting& routing = args.routing;
  const uint32_t num_experts = args.group.num_local_experts, lane = dev::lane_idx();
  for (uint32_t i = dev::block_idx(); i < remote.size(); i += dev::num_blocks()) {
    if (!is_active(op, remote.rank(i))) continue;
    const int64_t first_expert = int64_t{remote.rank(i)} * num_experts;
    float* head = reinterpret_cast<float*>(remote.outbox(op.bank, i));
    uint32_t num_rows = 0;
#pragma unroll 1
    for (uint32_t first = 0; first < num_tokens(routing.tokens); first += 32) {
      const uint32_t token = first + lane;
      const bool goes = token < num_tokens(routing.tokens) && has_expert(routing, token, first_expert, num_experts);
      const uint32_t bits = dev::ballot(goes), row = num_rows + dev::popc(bits & ((1u << lane) - 1));
      if (goes) write_weights(args, token, first_expert, head + uint64_t{row} * routing.num_topk);
      num_rows += dev::popc(bits);
    }
    dev::sync_warp();  // all of the head has been written
    if (lane == 0) remote.put_head(op, i, sizeof(float) * routing.num_topk * num_rows);
  }
}

// Where the weights stay at home: a signal all the same, since each operation has one.
template <Peers kPeers>
EP_DEVICE void put_no_weights(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote) {
  if (dev::block_idx() != 0) return;
  for (uint32_t i = dev::lane_idx(); i < remote.size(); i += 32) {
    if (is_active(op, remote.rank(i))) remote.put_head(op, i, 0);
  }
}

// Who has put the weights of a row.
template <Peers kPeers>
struct RemoteHome {
  const Operation<kPeers>& op;
  const RemoteRanks<kPeers>& remote;
  uint32_t number;  // of the rank
  uint32_t row;
  uint32_t num_topk;
};

template <Peers kPeers>
EP_DEVICE bool await_weights(const RemoteHome<kPeers>& home, const ResultItem& item, uint32_t num_hits,
                             Addend* addends) {
  const Operation<kPeers>& op = home.op;
  if (!home.remote.template wait_for<true>(op.epoch, {Wait::remote_weights, item.home, item.token},
                                           [&] { return dev::all(home.remote.has_head(op.epoch, item.home)); })) {
    return false;
  }
  const float* weights =
      reinterpret_cast<const float*>(home.remote.inbox(op.bank, home.number)) + uint64_t{home.row} * home.num_topk;
  for (uint32_t hit = dev::lane_idx(); hit < num_hits; hit += 32) {
    addends[hit].weight = dev::ld(weights + addends[hit].k);
  }
  dev::sync_warp();
  return true;
}

EP_DEVICE uint32_t most_remote_rows(uint32_t num_remote_ranks, const RemoteHandle& handle) {
  uint32_t most = 0;
  for (uint32_t i = dev::lane_idx(); i < num_remote_ranks; i += 32) {
    const uint32_t num_rows = *handle.num_rows(i);
    if (num_rows > most) most = num_rows;
  }
  return dev::max_warp(most);
}

// Calls send(i, row, item) for the rows that this warp sends to remote ranks: of which one, the row's number among those it
// has from there, and what it is. False: send() has given up.
template <Peers kPeers, class Send>
EP_DEVICE bool for_each_remote_row(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote,
                                   const LlCombineArgs& args, BlockQueue queue, Send send) {
  const RemoteHandle handle(args.routing, remote.size());
  const uint32_t num_items = remote.size() * most_remote_rows(remote.size(), handle);
  for (uint32_t index = queue.next(); index < num_items; index = queue.next()) {
    const uint32_t i = index % remote.size(), row = index / remote.size();
    if (row >= *handle.num_rows(i) || !is_active(op, remote.rank(i))) continue;
    ResultItem item;
    item.home = remote.rank(i);
    item.token = *handle.token(i, row);
    item.first_chunk = 0;
    item.end_chunk = args.rows.num_chunks;
    if (!send(i, row, item)) return false;
  }
  return true;
}

// Sends remote ranks' rows home. `num_warps` of the grid call it.
template <Layout kLayout, DType kDType, class Format, Peers kPeers>
EP_DEVICE void put_sums(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const LlCombineArgs& args,
                        BlockQueue queue, LocalSum<Format>& local, uint32_t num_warps) {
  const auto send = [&](uint32_t i, uint32_t row, const ResultItem& item) {
    local.template start<kLayout>(args, item, Remembered(args, item));
    const RemoteHome<kPeers> home{op, remote, i, row, args.routing.num_topk};
    unsigned char* staged = remote.outbox(op.bank, i) + args.network.layout.row_at(item.token);
    bool is_whole = true;
#pragma unroll 1
    for (uint32_t c = 0; c < item.end_chunk; ++c) {
      const typename Format::Chunk chunk(args.rows, c);
      typename Format::Row sum;
      if (!local.template add_up<kLayout, kDType>(home, chunk, c > 0, sum)) {
        if (!op.warp_goes_on()) return false;
        is_whole = false;  // its home is masked
        break;
      }
      if (c + 1 < item.end_chunk) local.load_first(args, c + 1);
      sum.store(chunk.packs, staged);
    }
    dev::sync_warp();  // all of the row has been written
    if (is_whole && dev::lane_idx() == 0) {
      remote.put_row(op.bank, item.home, item.token, i, args.rows.row_bytes());
    }
    return true;
  };
  if (for_each_remote_row(op, remote, args, queue, send)) remote.end_rows(op, num_warps);
}

// Rows that the ranks send home, from inside the team as lines, from outside as plain bytes.
template <Peers kOthers>
struct AllRows {
  static constexpr Peers kPeers = kOthers;
  const Operation<kPeers>& op;
  const RemoteRanks<kPeers>& remote;

  EP_DEVICE const void* at(uint32_t rank, uint32_t token) const {
    if (op.team.has(rank)) return op.row(op.group.rank, rank, token);
    return remote.inbox(op.bank, remote.number_of(rank)) + remote.network.layout.row_at(token);
  }

  EP_DEVICE Wait wait_for_rank(uint32_t rank) const {
    return op.team.has(rank) ? Wait::combine_row : Wait::remote_rows;
  }

  template <class Ready>
  EP_DEVICE bool wait_for(const Awaited& awaited, Ready ready) const {
    return remote.template wait_for<true, true>(op.epoch, awaited, ready);
  }

  // As TeamRows has them. What comes from outside may be looked at only when it is known to be there.
  template <class Chunk, class Row>
  EP_DEVICE void look(const Chunk& chunk, const Addend& addend, bool awaited, Row& row) const {
    if (op.team.has(addend.k)) TeamRows<kPeers>{op}.look(chunk, addend, awaited, row);
  }
  template <class Chunk, class Row>
  EP_DEVICE bool has_arrived(uint32_t token, const Chunk& chunk, const Addend& addend, Row& row) const {
    if (op.team.has(addend.k)) return TeamRows<kPeers>{op}.has_arrived(token, chunk, addend, row);
    if (!dev::all(remote.has_rows(op.epoch, addend.k, token))) return false;
    row.load_arrived(chunk.packs, static_cast<const unsigned char*>(addend.row));
    row = row.packs_to_lines();  // the words of a lane are to be those that it has of the team's rows
    return true;
  }
};

template <Layout kLayout, DType kDType, class Format, Peers kPeers>
EP_DEVICE void combine_remote_in_format(const LlCombineArgs& args) {
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxTopk]);
  EP_SHARED(uint32_t, num_taken, [3]);
  constexpr bool kHasWeights = kLayout == Layout::expert_major;
  const RemoteRanks<kPeers> remote(args);
  const bool sends = args.phases & kLlSend, receives = args.phases & kLlReceive;
  const bool pushes = sends && dev::warp_idx() < args.push_warps;  // the others collect from the start
  const bool sends_weights = kHasWeights && sends && leads();
  if (leads() && dev::lane_idx() == 0) {
    num_taken[0] = args.push_warps;
    num_taken[1] = num_taken[2] = 0;
  }
  // What the first steps need is got while the peers are awaited.
  const LsaTeam team = team_of<kPeers>(args);
  const uint32_t tokens_seen = most_tokens_seen(args, team);
  const TopkWeights weights(args, sends_weights ? dev::block_idx() : args.routing.tokens.most);
  LocalSum<Format> local;
  local.addends = addends[dev::warp_idx()];
  const Start start = begin(args, remote, [&] {
    const ResultItem item(args, team, worker_idx());
    if (pushes) local.template start<kLayout>(args, item, Remembered(args, item));
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (sends_weights) {
      put_weights(op, remote, args);  // they take longer
      send_weights(op, args, weights);
    }
    if (!kHasWeights && sends && leads()) put_no_weights(op, remote);
    if (pushes) {
      push_sums<kLayout, kDType>(op, args, dev::max_warp(tokens_seen), {num_taken}, local);
      put_sums<kLayout, kDType>(op, remote, args, {num_taken + 1}, local, args.push_warps * dev::num_blocks());
    }
    if (receives) {
      collect_sums<kDType, Format>(args, AllRows<kPeers>{op, remote}, {num_taken + 2}, local.addends);
      note_free_banks(op, remote);
    }
  }
  finish(op, args.routing, args.phases);
}

template <Layout kLayout, DType kDType, bool kScaled = false, Peers kPeers = Peers::teams>
EP_DEVICE void combine_remote(const LlCombineArgs& args) {
  combine_remote_in_format<kLayout, kDType, typename FormatOf<kScaled>::Type, kPeers>(args);
}

}  // namespace nccl_ep::ll
