// SPDX-License-Identifier: Apache-2.0
#include "plan/traffic.hpp"

#include <algorithm>

namespace nccl_ep::plan {
namespace {

constexpr ncclEpOperation_t kUpdate = NCCL_EP_OPERATION_UPDATE;
constexpr ncclEpOperation_t kDispatch = NCCL_EP_OPERATION_DISPATCH;
constexpr ncclEpOperation_t kCombine = NCCL_EP_OPERATION_COMBINE;
constexpr uint32_t kFloatsPerUnit = 3;

// [num_topk + 1]: of(n) for a token of which n experts, or ranks, are at the peer, `without` for one that does not go there.
template <class Of>
std::vector<size_t> each_token(uint32_t num_topk, Of of, size_t without = 0) {
  std::vector<size_t> bytes(num_topk + 1, without);
  for (uint32_t n = 1; n <= num_topk; ++n) bytes[n] = of(n);
  return bytes;
}

std::vector<size_t> no_tokens(uint32_t num_topk) { return std::vector<size_t>(num_topk + 1, 0); }

std::vector<size_t> all_tokens(uint32_t num_topk, size_t bytes) {
  return each_token(num_topk, [&](uint32_t) { return bytes; });
}

// The same bytes for each peer, whatever the tokens are.
TrafficPiece fixed(const char* name, ncclEpOperation_t operation, ncclEpTrafficPath_t path, uint32_t num_topk,
                   size_t bytes) {
  return {name, operation, path, false, bytes, no_tokens(num_topk)};
}

// A message without data to each peer, or a few.
TrafficPiece signals(const char* name, ncclEpOperation_t operation, ncclEpTrafficPath_t path, uint32_t num_topk,
                     size_t count = 1, bool to_home = false) {
  return {name, operation, path, to_home, 0, no_tokens(num_topk), 1, count};
}

void add_ll_team(TrafficPieces& pieces, const LlShape& group, const HandleShape& handle) {
  constexpr ncclEpTrafficPath_t kTeam = NCCL_EP_PATH_LSA;
  const LlLayout window = group.layout();
  const uint32_t num_topk = handle.num_topk;
  const bool expert_major = handle.layout == Layout::expert_major;
  const size_t count_units = expert_major ? window.count_units : 1;
  const auto routes = each_token(num_topk, [](uint32_t hits) { return sizeof(Unit) * hits; }, sizeof(Unit));
  const auto rows = all_tokens(num_topk, window.line_row_bytes);
  const auto rows_of_routes = each_token(num_topk, [&](uint32_t routes) { return window.line_row_bytes * routes; });

  pieces.push_back(fixed("hello", kDispatch, kTeam, num_topk, sizeof(uint32_t)));
  pieces.push_back(fixed("counts", kDispatch, kTeam, num_topk, sizeof(Unit) * count_units));
  pieces.push_back({"routes", kDispatch, kTeam, false, 0, routes});
  pieces.push_back({"rows", kDispatch, kTeam, false, 0, rows});

  pieces.push_back(fixed("hello", kCombine, kTeam, num_topk, sizeof(uint32_t)));
  if (expert_major && !group.exact_combine) {
    const size_t bytes = sizeof(Unit) * div_up(num_topk, kFloatsPerUnit);
    pieces.push_back({"weights", kCombine, kTeam, false, 0, all_tokens(num_topk, bytes)});
  }
  pieces.push_back({"rows", kCombine, kTeam, true, 0, group.exact_combine ? rows_of_routes : rows});
}

void add_ll_network(TrafficPieces& pieces, const LlShape& group, const HandleShape& handle) {
  constexpr ncclEpTrafficPath_t kNetwork = NCCL_EP_PATH_NETWORK;
  const LlRemoteLayout remote = group.remote_layout();
  const uint32_t num_topk = handle.num_topk;
  const auto head = each_token(num_topk, [](uint32_t hits) { return sizeof(LlRowRecord) + sizeof(Unit) * hits; });
  const auto rows = all_tokens(num_topk, group.max_row_bytes);

  pieces.push_back(signals("hello", kDispatch, kNetwork, num_topk));
  pieces.push_back({"counts and routes", kDispatch, kNetwork, false, remote.record_at(0), head, sizeof(Unit), 1});
  pieces.push_back({"rows", kDispatch, kNetwork, false, 0, rows, 1, 0, 1});
  pieces.push_back(signals("all rows sent", kDispatch, kNetwork, num_topk, kLlNetworkContexts));

  pieces.push_back(signals("hello", kCombine, kNetwork, num_topk));
  const bool sends_weights = handle.layout == Layout::expert_major && !group.exact_combine;
  const size_t weights = sends_weights ? sizeof(float) * num_topk : 0;
  const auto rows_of_routes = each_token(num_topk, [&](uint32_t routes) { return group.max_row_bytes * routes; });
  pieces.push_back({"weights", kCombine, kNetwork, false, 0, all_tokens(num_topk, weights), 1, 1});
  pieces.push_back({"rows", kCombine, kNetwork, true, 0, group.exact_combine ? rows_of_routes : rows, 1, 0, 1});
  pieces.push_back(signals("all rows sent", kCombine, kNetwork, num_topk, kLlNetworkContexts, true));
}

void add_ht_team(TrafficPieces& pieces, const HtShape& group, const HandleShape& handle) {
  constexpr ncclEpTrafficPath_t kTeam = NCCL_EP_PATH_LSA, kForwarded = NCCL_EP_PATH_LSA_FORWARDED;
  const HtLayout window = group.layout();
  const size_t row_bytes = group.max_row_bytes;
  const uint32_t num_topk = handle.num_topk;
  const auto units = [](uint32_t floats) { return sizeof(Unit) * div_up(floats, kFloatsPerUnit); };
  const auto records = each_token(num_topk, [&](uint32_t hits) { return sizeof(Unit) + units(hits - 1); });
  const bool has_flags = handle.layout == Layout::expert_major || !handle.into_windows;

  for (const ncclEpOperation_t operation : {kUpdate, kDispatch, kCombine}) {
    pieces.push_back(fixed("hello", operation, kTeam, num_topk, sizeof(uint32_t)));
  }
  pieces.push_back(fixed("counts", kUpdate, kForwarded, num_topk, sizeof(Unit) * window.count_units()));
  pieces.push_back({"records", kUpdate, kForwarded, false, 0, records});

  pieces.push_back({"rows", kDispatch, kForwarded, false, 0, all_tokens(num_topk, row_bytes)});
  if (has_flags) pieces.push_back({"flags", kDispatch, kForwarded, false, 0, all_tokens(num_topk, sizeof(uint32_t))});
  pieces.push_back({"weights", kDispatch, kForwarded, false, 0, each_token(num_topk, units)});
  pieces.push_back(fixed("done", kDispatch, kForwarded, num_topk, sizeof(uint32_t)));

  const auto back = [&](size_t bytes) {
    return each_token(num_topk, [&](uint32_t hits) { return bytes * (group.exact_combine ? hits : 1); });
  };
  pieces.push_back({"rows", kCombine, kForwarded, true, 0, back(row_bytes)});
  pieces.push_back({"flags", kCombine, kForwarded, true, 0, back(sizeof(uint32_t))});
}

// With exact_combine the parcel of a token has a row for each of its hits in the team, and leaves by itself. A signal follows
// those of a chunk.
void add_ht_routes(TrafficPieces& pieces, size_t row_bytes, uint32_t num_topk, uint32_t chunk_parcels) {
  const auto rows = each_token(num_topk, [&](uint32_t hits) { return row_bytes * hits; });
  pieces.push_back({"rows", kCombine, NCCL_EP_PATH_RAIL_FOR_EACH, true, 0, rows});
  pieces.push_back({"parcels", kCombine, NCCL_EP_PATH_RAIL, true, 0, no_tokens(num_topk), 1, 0, 1});
  pieces.push_back({"chunks sent", kCombine, NCCL_EP_PATH_RAIL, true, 0, no_tokens(num_topk), 1, 0, chunk_parcels});
}

// A token crosses once for each team, as a parcel; parcels travel in chunks.
void add_ht_rails(TrafficPieces& pieces, const HtShape& group, const HandleShape& handle) {
  constexpr ncclEpTrafficPath_t kRail = NCCL_EP_PATH_RAIL;
  const HtLayout window = group.layout();
  const uint32_t num_topk = handle.num_topk, chunk_parcels = group.remote_layout().chunk_parcels;
  const auto row_bytes = static_cast<uint32_t>(group.max_row_bytes);
  const HtList empty{window.team_size, window.record_units(), 0, 0};
  const auto list =
      each_token(num_topk, [&](uint32_t num_ranks) { return 1 + sizeof(Unit) * window.record_units() * num_ranks; });
  const auto parcels = [&](uint32_t num_weights) {
    return all_tokens(num_topk, HtParcels{row_bytes, num_weights}.stride());
  };

  for (const ncclEpOperation_t operation : {kUpdate, kDispatch, kCombine}) {
    pieces.push_back(signals("hello", operation, kRail, num_topk));
  }
  TrafficPiece counts = fixed("counts", kUpdate, kRail, num_topk, sizeof(Unit) * window.count_units());
  counts.messages_per_peer = 1;
  pieces.push_back(counts);
  pieces.push_back({"list of parcels", kUpdate, kRail, false, empty.num_dests_at(0), list, sizeof(Unit), 1});
  pieces.push_back({"parcels", kDispatch, kRail, false, 0, parcels(num_topk), 1, 0, chunk_parcels});
  if (group.exact_combine) return add_ht_routes(pieces, row_bytes, num_topk, chunk_parcels);
  pieces.push_back({"parcels", kCombine, kRail, true, 0, parcels(0), 1, 0, chunk_parcels});
}

}  // namespace

TrafficPieces traffic_of(const LlShape& group, const HandleShape& handle) {
  TrafficPieces pieces;
  add_ll_team(pieces, group, handle);
  if (group.num_remote_ranks() > 0) add_ll_network(pieces, group, handle);
  return pieces;
}

TrafficPieces traffic_of(const HtShape& group, const HandleShape& handle) {
  TrafficPieces pieces;
  add_ht_team(pieces, group, handle);
  if (group.team_size < group.num_ranks) add_ht_rails(pieces, group, handle);
  return pieces;
}

}  // namespace nccl_ep::plan
