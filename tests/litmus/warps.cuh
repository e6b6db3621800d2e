// SPDX-License-Identifier: Apache-2.0
// Warp collectives: their values, and which of them order memory.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

LITMUS(votes) {
  const uint32_t lane = dev::lane_idx();
  EXPECT(dev::ballot(lane % 3 == 0) == 0x49249249u);
  EXPECT(dev::ballot(false) == 0 && dev::ballot(true) == 0xffffffffu);
  EXPECT(dev::all(lane < 32) && !dev::all(lane != 7));
  EXPECT(dev::any(lane == 31) && !dev::any(lane == 32));
  EXPECT(dev::sum_warp(lane * lane) == 10416);
  EXPECT(dev::sum_warp(0x80000001u + lane) == 32u + 496u);
  EXPECT(dev::or_warp(1u << lane) == 0xffffffffu && dev::or_warp(lane == 5 ? 0x12u : 0x21u) == 0x33u);
  EXPECT(dev::popc(0x80010003u) == 4 && dev::popc(0u) == 0);
  EXPECT(dev::find_first(0x80010000u) == 16 && dev::find_first(0u) == -1);
}

LITMUS(shuffles) {
  const uint32_t lane = dev::lane_idx();
  const uint32_t mine = scramble(dev::thread_idx());
  const uint32_t first = dev::thread_idx() - lane;
  EXPECT(dev::shfl(mine, 9) == scramble(first + 9));
  EXPECT(dev::shfl(mine, (lane + 5) % 32) == scramble(first + (lane + 5) % 32));
  for (uint32_t mask = 1; mask < 32; mask *= 2) EXPECT(dev::shfl_xor(mine, mask) == scramble(first + (lane ^ mask)));
  const uint64_t wide = uint64_t{mine} << 32 | lane;
  EXPECT(dev::shfl(wide, 3) == (uint64_t{scramble(first + 3)} << 32 | 3));
}

// Each lane writes a word and reads its neighbour's after `meet`.
template <class Meet>
EP_DEVICE void read_neighbour(Test& test, Meet meet) {
  EP_SHARED(uint32_t, words, [1024]);
  const uint32_t me = dev::thread_idx(), neighbour = me / 32 * 32 + (me + 1) % 32;
  words[me] = scramble(me);
  meet();
  EXPECT(words[neighbour] == scramble(neighbour));
}

LITMUS(sync_warp) {
  read_neighbour(test, [] { dev::sync_warp(); });
}
LITMUS(sync_warp_missing) {
  read_neighbour(test, [] {});
}
LITMUS(shuffle_orders_nothing) {
  read_neighbour(test, [] { dev::shfl(dev::lane_idx(), 0); });
}
LITMUS(ballot_orders_nothing) {
  read_neighbour(test, [] { dev::ballot(true); });
}

// A warp writes a row into the peer's memory and lane 0 releases its flag.
template <bool kSync>
EP_DEVICE void push_row(Test& test) {
  uint32_t* flag = test.flag(1, dev::warp_idx());
  const uint32_t me = dev::thread_idx();
  if (test.args.rank == 0) {
    dev::st(test.data(1, me), scramble(me));
    if (kSync) dev::sync_warp();
    if (dev::lane_idx() == 0) dev::st_release<dev::Scope::system>(flag, 1u);
  } else {
    if (dev::lane_idx() == 0) AWAIT(dev::ld_acquire<dev::Scope::system>(flag) == 1);
    dev::sync_warp();
    EXPECT(dev::ld(test.data(1, me)) == scramble(me));
  }
}

LITMUS(warp_pushes_row) { push_row<true>(test); }
LITMUS(warp_pushes_row_unsynchronised) { push_row<false>(test); }

}  // namespace nccl_ep::litmus
