// SPDX-License-Identifier: Apache-2.0
// Moving row chunks, a warp at a time.
//
// A row is cut into chunks so that several warps share it and its first part is copied on while the rest is in flight.
// Whoever pushes a chunk into another rank's bank (or output window) stores it, meets its warp, and then one lane
// releases the chunk's flag at system scope; whoever reads the chunk has acquired that flag.
#pragma once

#include "device/numeric.hpp"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kPacksInFlight = 8;  // per lane: loads that are issued before the first store needs one

// This warp's place among all warps of the grid; neighbours sit on different SMs.
EP_DEVICE uint32_t worker_idx() { return dev::warp_idx() * dev::num_blocks() + dev::block_idx(); }
EP_DEVICE uint32_t num_workers() { return dev::num_warps() * dev::num_blocks(); }

// The packs [begin, end) of a row that make up a chunk.
struct Chunk {
  uint32_t begin, end;

  EP_DEVICE Chunk(const LlRowPlan& plan, uint32_t chunk) : begin(chunk * plan.packs_per_chunk) {
    const uint32_t rest = plan.packs_per_row - begin;
    end = begin + (rest < plan.packs_per_chunk ? rest : plan.packs_per_chunk);
  }
};

// Copies a chunk from `src` to the rows destination(0) ... destination(num_destinations - 1), which are row starts.
template <class Destination>
EP_DEVICE void copy_chunk(const Chunk& chunk, const unsigned char* src, uint32_t num_destinations,
                          Destination destination) {
  const Pack* from = reinterpret_cast<const Pack*>(src);
  for (uint32_t base = chunk.begin + dev::lane_idx(); base < chunk.end; base += 32 * kPacksInFlight) {
    Pack pack[kPacksInFlight];
#pragma unroll
    for (uint32_t i = 0; i < kPacksInFlight; ++i) {
      if (base + 32 * i < chunk.end) pack[i] = dev::ld(from + base + 32 * i);
    }
    for (uint32_t d = 0; d < num_destinations; ++d) {
      Pack* to = reinterpret_cast<Pack*>(destination(d));
#pragma unroll
      for (uint32_t i = 0; i < kPacksInFlight; ++i) {
        if (base + 32 * i < chunk.end) dev::st(to + base + 32 * i, pack[i]);
      }
    }
  }
}

// Waits for a chunk that another rank pushes into this rank's memory. The whole warp calls it.
EP_DEVICE bool await_chunk(const Operation& op, Wait what, uint32_t source, uint32_t token, uint32_t chunk) {
  bool ok = true;
  if (dev::lane_idx() == 0) {
    const uint32_t* flag = op.flag(op.group.rank, source, token, chunk);
    ok = wait_for(op.group, what, source, token, op.epoch,
                  [&] { return dev::ld_acquire<dev::Scope::system>(flag) == op.epoch; });
  }
  ok = dev::all(ok);
  dev::sync_warp();
  return ok;
}

}  // namespace nccl_ep::ll
