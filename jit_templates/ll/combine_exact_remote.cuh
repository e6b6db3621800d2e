// SPDX-License-Identifier: Apache-2.0
// Low-Latency combine of a group with exact_combine, across LSA teams: combine_exact.cuh inside the team, the network
// (remote.cuh) to all others.
//
// Parties: as in combine_exact.cuh. The rows that a rank has of one token go to a remote home with one put, in the order of
// their hits. No weights travel. Memory: outbox and inbox of this epoch's bank. A silent peer ends as a time-out of a named
// wait.
#pragma once

#include "ll/combine_exact.cuh"
#include "ll/combine_remote.cuh"

namespace nccl_ep::ll {

// Sends remote ranks' rows home. `num_warps` of the grid call it.
template <Peers kPeers>
EP_DEVICE void put_routes(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const LlCombineArgs& args,
                          BlockQueue queue, LocalSum<PlainRows>& local, uint32_t num_warps) {
  const uint64_t row_bytes = args.rows.row_bytes();
  for_each_remote_row(op, remote, args, queue, [&](uint32_t i, uint32_t, const ResultItem& item) {
    local.template start<Layout::expert_major>(args, item, Remembered(args, item));
    unsigned char* staged = remote.outbox(op.bank, i) + args.network.layout.row_at(item.token);
#pragma unroll 1
    for (uint32_t c = 0; c < item.end_chunk; ++c) {
      const Chunk chunk(args.rows, c);
      put_rows(chunk, local,
               [&](const LaneRow& row, uint32_t hit) { row.store(chunk.packs, staged + hit * row_bytes); });
      if (c + 1 < item.end_chunk) local.load_first(args, c + 1);
    }
    dev::sync_warp();  // all of the rows have been written
    if (dev::lane_idx() == 0) remote.put_row(op.bank, item.home, item.token, i, local.num_rows * row_bytes);
    return true;
  });
  remote.end_rows(op, num_warps);
}

// Rows that experts send home, from inside the team as lines, from outside as plain bytes.
template <Peers kOthers>
struct AllRoutes : AllRows<kOthers> {
  using AllRows<kOthers>::op, AllRows<kOthers>::at;
  const LlCombineArgs& args;

  EP_DEVICE const void* at_place(const Routes& routes, uint32_t i, uint32_t rank, uint32_t token) const {
    const uint64_t hit = routes.hit_on_rank(args, i);
    if (op.team.has(rank)) return op.row_of_route(op.group.rank, token, routes.first[i]);
    return static_cast<const unsigned char*>(at(rank, token)) + hit * args.rows.row_bytes();
  }
};

template <Peers kPeers = Peers::teams>
EP_DEVICE void combine_exact_remote(const LlCombineArgs& args) {
  EP_SHARED(Addend, addends, [kCombineWarps][kMaxTopk]);
  EP_SHARED(uint32_t, num_taken, [3]);
  const RemoteRanks<kPeers> remote(args);
  const bool sends = args.phases & kLlSend;
  const bool pushes = sends && dev::warp_idx() < args.push_warps;  // the others collect from the start
  if (leads() && dev::lane_idx() == 0) {
    num_taken[0] = args.push_warps;
    num_taken[1] = num_taken[2] = 0;
  }
  // What the first steps need is got while the peers are awaited.
  const LsaTeam team = team_of<kPeers>(args);
  const uint32_t tokens_seen = most_tokens_seen(args, team);
  LocalSum<PlainRows> local;
  local.addends = addends[dev::warp_idx()];
  const Start start = begin(args, remote, [&] {
    const ResultItem item(args, team, worker_idx());
    if (pushes) local.template start<Layout::expert_major>(args, item, Remembered(args, item));
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (sends && leads()) put_no_weights(op, remote);
    if (pushes) {
      push_routes(op, args, dev::max_warp(tokens_seen), {num_taken}, local);
      put_routes(op, remote, args, {num_taken + 1}, local, args.push_warps * dev::num_blocks());
    }
    if (args.phases & kLlReceive) {
      collect_routes(args, AllRoutes<kPeers>{{op, remote}, args}, {num_taken + 2}, local.addends);
      note_free_banks(op, remote);
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll
