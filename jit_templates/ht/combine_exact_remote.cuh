// SPDX-License-Identifier: Apache-2.0
// High-Throughput combine of a group of several LSA teams with exact_combine: combine_exact.cuh inside the team, and between
// teams every expert's row as it is.
//
// Parties: as in combine_remote.cuh. What a team has for a guest goes to the rank that hosts it, and from there home: the warps
// that add up copy it into the guest's parcel, which has room for as many rows as a token may have hits in a team. Who makes
// the last one of a chunk puts all of them, each with the rows that it has. At home a row of another team is read where it has
// arrived. Memory and waits: as there.
#pragma once

#include "ht/combine_exact.cuh"
#include "ht/combine_remote.cuh"
#include "ht/row_copies.cuh"

namespace nccl_ep::ht {

// What stands for a row that was lost: adding -0 changes nothing, whatever is added.
EP_DEVICE Pack minus_zeros(DType dtype) {
  const uint32_t word = dtype == DType::fp32 ? 0x80000000u : 0x80008000u;
  return {{word, word, word, word}};
}

template <Peers kOthers>
struct OtherRoutes : OtherSums<kOthers, true> {
  using Base = OtherSums<kOthers, true>;
  using Base::args, Base::it, Base::kPeers;

  // A row that has come from another team.
  EP_DEVICE Addend row_of(const HtDest& dest, uint32_t hit) const {
    return this->sum_of(dest) + uint64_t{hit} * args.move.row_bytes;
  }

  // Sends home what this team has for a guest. The whole warp calls it.
  EP_DEVICE bool send_routes(const Operation<kPeers>& op, uint32_t number, Addend* rows) const {
    return this->make_parcel(
        op, number, [&](uint32_t guest) { return list_guest(op, guest, rows); },
        [&](uint32_t guest, unsigned char* parcel) { return write_parcel(op, guest, rows, parcel); },
        [&](uint32_t i, uint32_t chunk) {
          bool leaves = false;
          this->count_parcel(op, i, chunk, [&](uint32_t) { leaves = true; });
          if (dev::any(leaves)) put_chunk(op, i, chunk);
        });
  }

 private:
  // A guest's hits in this team.
  EP_DEVICE uint32_t num_hits(uint32_t guest) const {
    const uint32_t num_dests = *args.handle.num_dests(guest);
    if (num_dests == 0) return 0;
    const HtHits last = dev::ld(args.handle.dest(guest, num_dests - 1)).hits;
    return last.first + last.count;
  }

  // Lists their rows when they are there; null: lost. False: something did not come.
  EP_DEVICE bool list_guest(const Operation<kPeers>& op, uint32_t guest, Addend* rows) const {
    const uint32_t count = num_hits(guest);
    dev::sync_warp();  // the last guest's rows are about to be replaced
    for (uint32_t first = 0; first < count; first += 32) {
      const uint32_t hit = first + dev::lane_idx();
      uint32_t come = 0;
      Addend row = nullptr;
      const Route route = hit < count ? Route(args.handle, guest, hit) : Route();
      if (!await_routes(op, args, *this, guest, route, come, row)) return false;
      if (hit < count) rows[hit] = row;
    }
    dev::sync_warp();
    return true;
  }

  // Rows, and backward the gradients behind them.
  EP_DEVICE bool write_parcel(const Operation<kPeers>& op, uint32_t guest, const Addend* rows,
                              unsigned char* parcel) const {
    const uint32_t count = num_hits(guest), row_bytes = args.move.row_bytes;
    for (uint32_t hit = 0; hit < count; ++hit) {
      unsigned char* to = parcel + uint64_t{hit} * row_bytes;
      if (rows[hit]) {
        copy_row(rows[hit], row_bytes, 0, 1, [&](uint32_t) { return to; });
      } else {
        fill_row(minus_zeros(args.dtype), row_bytes, to);
      }
    }
    if (!args.topk_weights) return true;
    float* gradients = reinterpret_cast<float*>(parcel + uint64_t{count} * row_bytes);
    return this->collect_guest_gradients(op, guest, gradients);
  }

  // A lane for each parcel. The whole warp calls it.
  EP_DEVICE void put_chunk(const Operation<kPeers>& op, uint32_t i, uint32_t chunk) const {
    const auto boxes = this->boxes();
    const uint32_t first = chunk * boxes.chunk_parcels();
    const uint32_t end = first + boxes.size_of_chunk(chunk, args.handle.parcels(i)->guests);
    const uint64_t hit_bytes = args.move.row_bytes + (args.topk_weights ? sizeof(float) : 0);
    dev::sync_warp();  // all lanes know of the parcels that other warps have written
    for (uint32_t parcel = first + dev::lane_idx(); parcel < end; parcel += 32) {
      const uint64_t bytes = num_hits(it.first_guest(i) + parcel) * hit_bytes;
      if (bytes > 0) boxes.put_parcel(i, parcel, bytes);
    }
    dev::sync_warp();  // one lane tells of what all have put
    if (dev::lane_idx() == 0) boxes.tell(op, i, chunk);
  }
};

template <Peers kPeers = Peers::teams>
EP_DEVICE void combine_exact_remote(const HtCombineArgs& args) {
  combine_exact_with(args, OtherRoutes<kPeers>{{args, {args.group, args.network}}});
}

}  // namespace nccl_ep::ht
