// SPDX-License-Identifier: Apache-2.0
// The rows of dispatch: what they are made of, and where they go.
#pragma once

#include "ht/quantize.cuh"
#include "ht/scaled_mover.cuh"
#include "ht/tickets.cuh"

namespace nccl_ep::ht {

// Whether rows from `source` go straight into the output of a rank.
EP_DEVICE bool is_direct(const HtDispatchArgs& args, uint32_t source, uint32_t rank) {
  return args.out_window.base != 0 || source == rank;
}

// Where a flow's rows are pushed to with their scales, and whether that is the outputs.
struct Destination {
  Rows rows, scales;
  bool direct;
};

// On their way in a rank's window, scales lie behind their row.
EP_DEVICE Rows window_scales(const HtDispatchArgs& args, uint32_t rank) {
  const Rows rows = window_rows(args.group, rank);
  return {rows.base + args.move.row_bytes, rows.stride};
}

EP_DEVICE Destination destination(const HtDispatchArgs& args, uint32_t flow) {
  const uint32_t row_bytes = args.move.row_bytes, scale_bytes = args.scales.row_bytes;
  if (flow == args.group.rank)
    return {rows_of(args.out_tokens, row_bytes), rows_of(args.scales.out, scale_bytes), true};
  const uint32_t peer = rank_of_flow(args.group, flow);
  if (args.out_window.base == 0) return {window_rows(args.group, peer), window_scales(args, peer), false};
  return {rows_of(args.out_window.at<void>(peer, 0), row_bytes),
          rows_of(args.scales.out_window.at<void>(peer, 0), scale_bytes), true};
}

// Whether rows that stay on this rank are pushed, too, since no block has nothing else to do.
EP_DEVICE bool pushes_own(const HtMovePlan& plan) { return plan.push_blocks == dev::num_blocks(); }

// Whether receivers look at single rows.
template <bool kExpertMajor>
EP_DEVICE bool has_flags(const HtDispatchArgs& args) {
  return kExpertMajor || args.out_window.base == 0;
}

// This rank's tokens, as they leave: the caller's.
struct GivenTokens {
  static constexpr bool kHasScales = false;
  const HtDispatchArgs& args;

  EP_DEVICE Mover mover(bool has_flags, FlagQueue& queue, unsigned char* stages) const {
    return Mover(args.move, has_flags, queue, stages);
  }

  // Waits for the tokens that the lanes have.
  EP_DEVICE bool await(const HtSend&, uint64_t, uint32_t, uint32_t, bool) const { return true; }
  // Waits for a token: each thread for itself.
  EP_DEVICE bool await(uint32_t) const { return true; }
  EP_DEVICE ScaledRow<const unsigned char> at(uint32_t token) const {
    return {args.tokens + uint64_t{token} * args.move.row_bytes,
            args.scales.given + uint64_t{token} * args.scales.row_bytes};
  }
};

// The same with scales: the caller's or quantized.
template <Peers kPeers>
struct ScaledTokens {
  static constexpr bool kHasScales = true;
  const Operation<kPeers>& op;
  const HtDispatchArgs& args;
  QuantizedTokens quantized;

  EP_DEVICE ScaledMover mover(bool has_flags, FlagQueue& queue, unsigned char* stages) const {
    return ScaledMover(args.move, args.scales, has_flags, queue, stages);
  }
  EP_DEVICE bool are_quantized() const { return args.quantization.tokens != nullptr; }
  EP_DEVICE void quantize() const {
    if (are_quantized()) quantize_tokens(op, args, quantized);
  }
  EP_DEVICE bool await(const HtSend& send, uint64_t, uint32_t, uint32_t, bool exists) const {
    if (!are_quantized()) return true;
    const bool ok = dev::all(!exists || await(send.token));
    dev::sync_warp();          // one lane pushes what any of them has seen made
    dev::fence_proxy_async();  // bulk copies will read what other warps have written
    return ok;
  }
  EP_DEVICE bool await(uint32_t token) const {
    return !are_quantized() || await_quantized(op, args.quantization, token);
  }
  EP_DEVICE ScaledRow<const unsigned char> at(uint32_t token) const {
    if (!are_quantized()) return GivenTokens{args}.at(token);
    const unsigned char* row = quantized.at(token);
    return {row, row + args.move.row_bytes};
  }
};

}  // namespace nccl_ep::ht
