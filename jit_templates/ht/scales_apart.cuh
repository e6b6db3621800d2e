// SPDX-License-Identifier: Apache-2.0
// Scales that go apart from their rows: flat into windows, where those of a flow's rows lie one behind the other, and where the
// warps that receive have nothing to wait for. Single ones are small, and cost the warps that push as much as their rows.
#pragma once

#include "ht/scales.cuh"
#include "ht/tickets.cuh"

namespace nccl_ep::ht {

// What must have arrived of a flow with so many rows: these, and as often their scales if those go apart.
template <bool kHasScales>
EP_DEVICE uint32_t num_arrivals(const HtScales& scales, uint32_t num_rows) {
  return kHasScales && scales.go == ScalesGo::apart ? 2 * num_rows : num_rows;
}

constexpr uint32_t kScaleRows = 8;       // whose scales a warp sends at a time
constexpr uint32_t kScalesUnderWay = 4;  // words of a lane

// Copies the scales of some rows, word by word. A lane has one of the rows: its token, and its place in `to`. The whole warp
// calls it.
template <class Word, class Tokens>
EP_DEVICE void copy_scales_of_rows(const HtScales& scales, const Tokens& tokens, const HtSend& mine, uint32_t num_rows,
                                   const Rows& to) {
  const uint32_t words = scales.row_bytes / sizeof(Word), end = num_rows * words;
#pragma unroll 1
  for (uint32_t begin = 0; begin < end; begin += 32 * kScalesUnderWay) {
    Word word[kScalesUnderWay];
    Word* place[kScalesUnderWay];
#pragma unroll
    for (uint32_t p = 0; p < kScalesUnderWay; ++p) {
      const uint32_t i = begin + 32 * p + dev::lane_idx(), row = i < end ? i / words : 0, at = i - row * words;
      const uint32_t token = dev::shfl(mine.token, row), slot = dev::shfl(mine.slot, row);
      place[p] = nullptr;
      if (i >= end || slot == HtHandleLayout::kNoSlot) continue;
      word[p] = dev::ld(reinterpret_cast<const Word*>(tokens.at(token).scales) + at);
      place[p] = reinterpret_cast<Word*>(to.at(slot)) + at;
    }
#pragma unroll
    for (uint32_t p = 0; p < kScalesUnderWay; ++p) {
      if (place[p]) dev::st(place[p], word[p]);
    }
  }
}

// The same for some rows of a flow, when their tokens have them. False: an operation has failed, or the peer gets nothing.
template <class Tokens, Peers kPeers>
EP_DEVICE bool send_scales_of_rows(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                                   uint32_t peer, uint64_t first, uint32_t num_rows, const Rows& to) {
  const bool exists = dev::lane_idx() < num_rows;
  const auto standing = op.standing_of(peer);
  const HtSend mine = exists ? dev::ld(args.handle.send(first + dev::lane_idx())) : HtSend{};
  if (!op.warp_reaches(peer, standing) || !dev::all(!exists || tokens.await(mine.token))) return false;
  dev::sync_warp();  // one lane reads what another has seen made
  with_scale_word(args.scales,
                  [&](auto word) { copy_scales_of_rows<decltype(word)>(args.scales, tokens, mine, num_rows, to); });
  dev::sync_warp();  // what all lanes have stored is one lane's to count
  return true;
}

// Sends a crew's part of the scales of the flows in this team; `to` tells where a flow's go.
template <class Tokens, class To, Peers kPeers>
EP_DEVICE void send_scales_apart(const Operation<kPeers>& op, const HtDispatchArgs& args, const Tokens& tokens,
                                 const Crew& crew, uint32_t num_flows, To to) {
  uint32_t most = 0;
  for (uint32_t i = dev::lane_idx(); i < num_flows; i += 32) {
    const uint32_t num_rows = args.handle.outgoing(team_peer(op.group, i))->num_rows;
    if (num_rows > most) most = num_rows;
  }
  most = dev::max_warp(most);
  if (most == 0) return;
  for (uint64_t item = crew.worker();; item += crew.num_workers()) {
    const uint32_t flow = team_peer(op.group, static_cast<uint32_t>(item % num_flows));
    const uint64_t begin = item / num_flows * kScaleRows;
    if (begin >= most) return;
    const HtOutgoing outgoing = *args.handle.outgoing(flow);
    if (begin >= outgoing.num_rows) continue;
    if (!dev::all(op.await_peer(flow))) {
      if (!op.warp_goes_on()) return;
      continue;
    }
    const uint32_t left = outgoing.num_rows - static_cast<uint32_t>(begin);
    const uint32_t num_rows = left < kScaleRows ? left : kScaleRows;
    if (!send_scales_of_rows(op, args, tokens, flow, outgoing.first + begin, num_rows, to(flow))) continue;
    if (dev::lane_idx() == 0) {
      add_arrived(op, args.move, flow, num_rows, num_arrivals<true>(args.scales, outgoing.num_rows));
    }
  }
}

}  // namespace nccl_ep::ht
