// SPDX-License-Identifier: Apache-2.0
// Low-Latency dispatch of a group of several LSA teams: dispatch.cuh inside the team, the network (remote.cuh) to all others.
//
// Parties: as in dispatch.cuh. The block that has collected the hits on a remote rank puts their routes. The warps that do
// not push rows inside the team first write those that leave it into the outbox, each once, and put them to every remote
// rank that they go to. Then they receive: the team's rows, which come sooner, then the others.
// Memory: outbox and inbox of this epoch's bank. A silent peer ends as a time-out of a named wait.
#pragma once

#include "ll/dispatch.cuh"
#include "ll/remote.cuh"

namespace nccl_ep::ll {

// What dispatch puts ahead: counts as they are sent inside the team, records of the rows, and all routes, densely.
struct DispatchHead {
  unsigned char* memory;
  const LlRemoteLayout& layout;

  EP_DEVICE Unit* counts() const { return reinterpret_cast<Unit*>(memory); }
  EP_DEVICE LlRowRecord* record(uint32_t row) const {
    return reinterpret_cast<LlRowRecord*>(memory + layout.record_at(row));
  }
  EP_DEVICE Unit* routes(uint32_t num_rows) const {
    return reinterpret_cast<Unit*>(memory + layout.routes_at(num_rows));
  }
};

// A thread for every token.
EP_DEVICE void write_records(const LlDispatchArgs& args, const RouteScratch& scratch, const DispatchHead& head) {
  const TokenBits places{scratch.place_hits};
#pragma unroll 1
  for (uint32_t token = dev::thread_idx(); token < num_tokens(args.routing.tokens);
       token += followers().num_threads()) {
    if (scratch.hits(token) == 0) continue;
    dev::st(head.record(scratch.tokens.count_before(token)),
            LlRowRecord{token, places.count_before(token * scratch.num_topk)});
  }
}

// What a remote rank must know about this rank's tokens: written pass by pass, put after the last one.
template <Layout kLayout, Peers kPeers>
EP_DEVICE void put_routes(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const LlDispatchArgs& args,
                          const RouteScratch& scratch, const RouteTask<kLayout>& task) {
  const uint32_t peer = task.peer(args), i = remote.number_of(peer), num_rows = scratch.counts->num_rows;
  if (!is_active(op, peer)) return;
  const DispatchHead head{remote.outbox(op.bank, i), args.network.layout};
  const TokenBits places{scratch.place_hits};
  for_each_count_unit<kLayout>(args, scratch, task.pass, 0,
                               [&](uint32_t number, const Unit& unit) { dev::st(head.counts() + number, unit); });
  if (task.pass.begin == 0) write_records(args, scratch, head);
  for_each_route<kLayout>(
      args, scratch, peer, task.pass, [](uint32_t) {},
      [&](const Place& place, const Route& route) {
        dev::st(head.routes(num_rows) + places.count_before(place.index), route.encode(0));
      });
  if (!task.is_last_pass(args)) return;
  followers().sync(kRoutesBarrier);  // all of the head has been written
  if (dev::thread_idx() != 0) return;
  const uint32_t num_routes = places.count((num_tokens(args.routing.tokens) * scratch.num_topk + 31) / 32);
  remote.put_head(op, i, args.network.layout.routes_at(num_rows) + sizeof(Unit) * num_routes);
}

// Whether a token goes to a rank outside the team.
EP_DEVICE bool leaves(const LsaTeam& team, const TopkRanks& ranks) {
  bool leaves = false;
#pragma unroll
  for (uint32_t i = 0; i < TopkIds::kPerLane; ++i) {
    leaves |= ranks.rank[i] != TopkRanks::kNone && !team.has(ranks.rank[i]);
  }
  return dev::any(leaves);
}

// A lane for each rank that the row goes to.
template <Peers kPeers>
EP_DEVICE void put_row(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const TopkRanks& ranks,
                       uint32_t token, uint64_t row_bytes) {
  for (uint32_t base = 0; base < op.group.num_ranks; base += 32) {
    const uint32_t bits = ranks.bits_from(base) & active_bits<kPeers>(base), peer = base + dev::lane_idx();
    if ((bits >> dev::lane_idx() & 1) && !op.team.has(peer)) remote.put_row(op.bank, peer, token, 0, row_bytes);
  }
}

// Puts the rows that leave the team. `warps` of every block call it, and share the tokens.
template <bool kScaled, Peers kPeers>
EP_DEVICE void put_rows(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote, const LlDispatchArgs& args,
                        const WarpTeam& warps) {
  const uint32_t num_warps = warps.num_warps * dev::num_blocks();
  const uint32_t first = (dev::warp_idx() - warps.first_warp) * dev::num_blocks() + dev::block_idx();
  const uint64_t row_bytes = args.rows.row_bytes();
  for (uint32_t token = first; token < num_tokens(args.routing.tokens); token += num_warps) {
    const TopkRanks ranks(op.group, args.routing, TopkIds(args.routing, token));
    if (!leaves(op.team, ranks)) continue;
    unsigned char* staged = remote.outbox(op.bank, 0) + args.network.layout.row_at(token);
#pragma unroll 1
    for (uint32_t c = 0; c < args.rows.num_chunks; ++c) {
      const Chunk chunk(args.rows, c);
      LaneRow row;
      load_payload<kScaled>(args, chunk, token, row);
      row.store(chunk.packs, staged);
    }
    dev::sync_warp();  // all of the row has been written
    put_row(op, remote, ranks, token, row_bytes);
  }
  remote.end_rows(op, num_warps);
}

// The counts of remote ranks. Who has met the threads that took them may read the heads.
template <Peers kPeers>
struct RemoteCounts {
  const Operation<kPeers>& op;
  const RemoteRanks<kPeers>& remote;
  const LlDispatchArgs& args;

  EP_DEVICE uint32_t num_sources() const { return remote.size(); }
  EP_DEVICE uint32_t source(uint32_t i) const { return remote.rank(i); }
  EP_DEVICE bool await(uint32_t source, uint32_t number, Unit& unit) const {
    unit = {};
    return remote.wait_for(op.epoch, {Wait::remote_counts, source, 0}, [&] { return look(source, number, unit); });
  }
  EP_DEVICE bool look(uint32_t source, uint32_t number, Unit& unit) const {
    if (!remote.has_head(op.epoch, source)) return false;
    const DispatchHead head{remote.inbox(op.bank, remote.number_of(source)), args.network.layout};
    unit = dev::ld(head.counts() + number);
    return true;
  }
};

// The routes of a row from a remote rank, into shared memory.
EP_DEVICE Arrived read_routes(const DispatchHead& head, const LlRowRecord& record, uint32_t num_rows, Route* routes) {
  const Unit* units = head.routes(num_rows) + record.first_route;
  const Route first = Route::decode(dev::ld(units));
  for (uint32_t hit = dev::lane_idx(); hit < first.num_hits; hit += 32)
    routes[hit] = Route::decode(dev::ld(units + hit));
  dev::sync_warp();
  return {true, first.num_hits, first.row};
}

// Nothing is to be sent back for a row whose source is lost.
EP_DEVICE void remember_lost(const LlDispatchArgs& args, const RemoteHandle& handle, const Arrival& arrival,
                             uint32_t remote, uint32_t number) {
  remember(args.routing, args.group.layout.slot(arrival.source, arrival.token), {}, {}, 0);
  if (dev::lane_idx() == 0) *handle.token(remote, number) = arrival.token;
}

// Rows from remote ranks: each rank's in turn, in the order of their tokens. `warp_routes` is shared memory.
template <Layout kLayout, bool kScaled, Peers kPeers>
EP_DEVICE void receive_remote_rows(const Operation<kPeers>& op, const RemoteRanks<kPeers>& remote,
                                   const LlDispatchArgs& args, const ArrivalTable& table, BlockQueue queue,
                                   Route* warp_routes) {
  const RemoteHandle handle(args.routing, remote.size());
  const uint32_t num_ranks = remote.size(), num_chunks = args.rows.num_chunks;
  const uint32_t num_items = num_ranks * table.most_rows() * num_chunks;
  for (uint32_t item = queue.next(); item < num_items; item = queue.next()) {
    const uint32_t i = item % num_ranks, number = item / num_ranks / num_chunks, source = remote.rank(i);
    if (number >= table.num_rows(source)) continue;
    unsigned char* box = remote.inbox(op.bank, i);
    const DispatchHead head{box, args.network.layout};
    const LlRowRecord record = dev::ld(head.record(number));
    const Arrival arrival{source, record.token, item / num_ranks % num_chunks};
    const Arrived arrived = read_routes(head, record, table.num_rows(source), warp_routes);
    const Chunk chunk(args.rows, arrival.chunk);
    if (!remote.template wait_for<true>(op.epoch, {Wait::remote_rows, source, record.token},
                                        [&] { return dev::all(remote.has_rows(op.epoch, source, record.token)); })) {
      if (!op.warp_goes_on()) return;
      if (arrival.chunk == 0) remember_lost(args, handle, arrival, i, number);
      continue;
    }
    LaneRow row;
    row.load_arrived(chunk.packs, box + args.network.layout.row_at(record.token));
    if (arrival.chunk == 0 && dev::lane_idx() == 0) *handle.token(i, number) = record.token;
    deliver<kLayout, kScaled>(args, table, arrival, arrived, chunk, warp_routes, row);
    dev::sync_warp();  // the routes are about to be reused
  }
  if (dev::block_idx() != dev::num_blocks() - 1) return;
  for (uint32_t i = dev::thread_idx(); i < num_ranks; i += dev::num_threads()) {
    *handle.num_rows(i) = table.num_rows(remote.rank(i));
  }
}

template <Layout kLayout, bool kScaled = false, Peers kPeers = Peers::teams>
EP_DEVICE void dispatch_remote(const LlDispatchArgs& args) {
  EP_DYNAMIC_SHARED(shared);
  EP_SHARED(Route, routes, [kLlDispatchThreads / 32][kMaxTopk]);
  EP_SHARED(uint32_t, num_taken, [1]);
  const ArrivalTable table = ArrivalTable::make<kLayout>(args.group, shared);
  const RouteScratch scratch(table.end(), args.routing);
  const RemoteRanks<kPeers> remote(args);
  const WarpTeam receivers{args.push_warps, dev::num_warps() - args.push_warps};
  const bool sends = args.phases & kLlSend, receives = args.phases & kLlReceive;
  const bool pushes = dev::warp_idx() < args.push_warps;

  if (leads() && dev::lane_idx() == 0) {
    table.clear();
    num_taken[0] = 0;
  }
  if (has_masks(kPeers) && leads()) table.clear_incomplete();
  FirstPush<kPeers, kScaled> push;
  const Start start = begin(args, remote, [&] {
    if (sends && pushes) push = FirstPush<kPeers, kScaled>(args);
    const RouteTask<kLayout> task(args);
    if (sends && task.exists(args)) task.collect(args, scratch);
  });
  const Operation<kPeers> op(args, start.epoch);
  if (start.ready) {
    if (sends && !leads()) {
      for_each_route_task<kLayout>(args, scratch, [&](const RouteTask<kLayout>& task) {
        if (op.team.has(task.peer(args))) {
          send_routes<kLayout>(op, args, scratch, task);
        } else {
          put_routes<kLayout>(op, remote, args, scratch, task);
        }
      });
    }
    if (sends && pushes) push_rows(op, args, push);
    if (sends && !pushes) put_rows<kScaled>(op, remote, args, receivers);
    if (receives) {
      if (pushes) {
        dev::bar_sync(kTableBarrier, dev::num_threads());
      } else {
        fill(table, receivers, [&] {
          const bool has_teams = read_counts<kPeers>(TeamCounts<kPeers>{op}, table, receivers);
          return read_counts<kPeers>(RemoteCounts<kPeers>{op, remote, args}, table, receivers) && has_teams;
        });
        dev::bar_arrive(kTableBarrier, dev::num_threads());
      }
      if (table.has_all()) {
        receive_rows<kLayout, kScaled>(op, args, table, routes[dev::warp_idx()]);
        receive_remote_rows<kLayout, kScaled>(op, remote, args, table, {num_taken}, routes[dev::warp_idx()]);
        report_counts<kLayout>(args, table);
      }
      note_free_banks(op, remote);
    }
  }
  finish(op, args.routing, args.phases);
}

}  // namespace nccl_ep::ll
