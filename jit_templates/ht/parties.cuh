// SPDX-License-Identifier: Apache-2.0
// Who does what while rows move, and what a rank knows of the rows that it receives.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

constexpr uint32_t kMoveWarps = kHtMoveThreads / 32;
constexpr uint32_t kStripBytes = 16 * 32;  // of a row, that a warp reads or writes with one instruction

// Rows with numbers: an output, or the window's.
struct Rows {
  uint64_t base;
  uint64_t stride;
  EP_DEVICE unsigned char* at(uint64_t row) const {
    return reinterpret_cast<unsigned char*>(static_cast<uintptr_t>(base + row * stride));
  }
};

EP_DEVICE Rows rows_of(const void* memory, uint64_t stride) { return {reinterpret_cast<uintptr_t>(memory), stride}; }

// Rows on their way in a rank's window.
EP_DEVICE Rows window_rows(const HtGroupState& group, uint32_t rank) {
  return rows_of(group.window.at<void>(rank, group.layout.row_at(0)), group.layout.row_bytes);
}

// Some warps of some blocks. Neighbours sit on different SMs.
struct Crew {
  uint32_t first_block, num_blocks;
  uint32_t first_warp, num_warps;  // of each of them

  EP_DEVICE bool has_me() const {
    return dev::block_idx() - first_block < num_blocks && dev::warp_idx() - first_warp < num_warps;
  }
  EP_DEVICE uint32_t worker() const {
    return (dev::warp_idx() - first_warp) * num_blocks + (dev::block_idx() - first_block);
  }
  EP_DEVICE uint32_t num_workers() const { return num_warps * num_blocks; }
  // The same for threads.
  EP_DEVICE uint32_t thread() const { return 32 * worker() + dev::lane_idx(); }
  EP_DEVICE uint32_t num_threads() const { return 32 * num_workers(); }
};

// Who does what. A few SMs fill the links, and more of them are slower; the other blocks receive. If there are no others, the
// other warps do.
struct Crews {
  Crew pushers, raisers, receivers;

  EP_DEVICE bool have_me() const { return pushers.has_me() || raisers.has_me() || receivers.has_me(); }

  EP_DEVICE Crews(const HtMovePlan& plan, bool has_flags)
      : pushers{0, plan.push_blocks, 0, plan.push_warps}, raisers{0, plan.push_blocks, plan.push_warps, has_flags} {
    if (plan.push_blocks < dev::num_blocks()) {
      receivers = {plan.push_blocks, dev::num_blocks() - plan.push_blocks, 0, dev::num_warps()};
    } else {
      const uint32_t first_warp = plan.push_warps + raisers.num_warps;
      receivers = {0, plan.push_blocks, first_warp, dev::num_warps() - first_warp};
    }
  }
};

// Where each rank's rows begin on this one, and behind the last where they end; in the block's shared memory.
struct RowRanges {
  uint32_t num_ranks;
  const uint32_t* begin;

  EP_DEVICE uint32_t count(uint32_t source) const { return begin[source + 1] - begin[source]; }
  // Rows of a rank.
  EP_DEVICE uint32_t most() const {
    uint32_t most = 0;
    for (uint32_t source = 0; source < num_ranks; ++source) {
      if (count(source) > most) most = count(source);
    }
    return most;
  }
};

// All threads of the block call it before begin(), in which they meet. The first warp has other things to do there.
EP_DEVICE RowRanges load_row_ranges(const HtGroupState& group, const HtHandle& handle) {
  EP_SHARED(uint32_t, begin, [kMaxRanks + 1]);
  if (dev::warp_idx() != 0) {
    const uint32_t num_threads = dev::num_threads() - 32;
    for (uint32_t i = dev::thread_idx() - 32; i <= group.num_ranks; i += num_threads) begin[i] = *handle.source(i);
  }
  return {group.num_ranks, begin};
}

// One of this rank's rows, and what a lane has looked up of it.
struct ReceivedRow {
  static constexpr uint32_t kFirstHits = 4;  // looked up at once, whether or not it has as many
  bool exists;
  uint32_t row, source;
  HtHome home;
  uint32_t first_hits[kFirstHits];
  bool has_come;  // its flag is raised

  EP_DEVICE uint32_t hit(const HtHandle& handle, uint32_t i) const {
    return i < kFirstHits ? first_hit(i) : dev::ld(handle.hit(row, i));
  }

  EP_DEVICE ReceivedRow from_lane(uint32_t lane) const {
    ReceivedRow it{true, dev::shfl(row, lane), dev::shfl(source, lane), {}, {}, false};
    it.home.token = dev::shfl(home.token, lane);
    const uint32_t packed =
        dev::shfl(uint32_t{has_come} << 16 | uint32_t{home.place} << 8 | uint32_t{home.num_hits}, lane);
    it.home.num_hits = static_cast<uint8_t>(packed);
    it.home.place = static_cast<uint8_t>(packed >> 8);
    it.has_come = packed >> 16;
#pragma unroll
    for (uint32_t i = 0; i < kFirstHits; ++i) it.first_hits[i] = dev::shfl(first_hits[i], lane);
    return it;
  }

 private:
  EP_DEVICE uint32_t first_hit(uint32_t i) const {
    uint32_t hit = first_hits[0];
#pragma unroll
    for (uint32_t j = 1; j < kFirstHits; ++j) hit = i == j ? first_hits[j] : hit;
    return hit;
  }
};

EP_DEVICE ReceivedRow look_up_row(const HtHandle& handle, uint32_t row, uint32_t source) {
  ReceivedRow received{};
  received.row = row;
  received.source = source;
  received.home = dev::ld(handle.home(row));
  received.exists = received.home.num_hits > 0;
#pragma unroll
  for (uint32_t i = 0; i < ReceivedRow::kFirstHits; ++i) {
    if (i < handle.layout.max_hits) received.first_hits[i] = dev::ld(handle.hit(row, i));
  }
  return received;
}

// The rows of all sources in turn, as they arrive: the one with number i. When a worker comes round it gets another source.
EP_DEVICE ReceivedRow row_in_turn(const HtHandle& handle, const RowRanges& ranges, const Crew& crew, uint64_t i) {
  const uint64_t number = i / ranges.num_ranks, round = number / div_up(crew.num_workers(), ranges.num_ranks);
  const uint32_t source = static_cast<uint32_t>((i + round) % ranges.num_ranks);
  if (number >= ranges.count(source)) return {};
  return look_up_row(handle, ranges.begin[source] + static_cast<uint32_t>(number), source);
}

// Calls visit(row) for the rows of a crew's warp. Before, its lanes call look_up(i, row) for the next 32. False ends it.
template <class LookUp, class Visit>
EP_DEVICE void for_each_row(const Crew& crew, uint64_t num_items, LookUp look_up, Visit visit) {
  for (uint64_t first = crew.worker(); first < num_items; first += 32 * crew.num_workers()) {
    const uint64_t i = first + dev::lane_idx() * crew.num_workers();
    ReceivedRow mine{};
    if (!dev::all(i >= num_items || look_up(i, mine))) return;
    for (uint32_t left = dev::ballot(mine.exists); left; left &= left - 1) {
      const ReceivedRow row = mine.from_lane(dev::find_first(left));
      if (!visit(row)) return;
    }
  }
}

}  // namespace nccl_ep::ht
