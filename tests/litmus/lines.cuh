// SPDX-License-Identifier: Apache-2.0
// Lines: eight lanes, 128 bytes, one tag.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
constexpr uint32_t kLineRounds = 20000;  // what is rare on a GPU takes many
#else
constexpr uint32_t kLineRounds = 32;
#endif

// A lane's part of line `number`, whose last word is its tag. Every other word follows from number and tag.
EP_DEVICE Unit made_part(uint32_t number, uint32_t tag) {
  const uint32_t part = dev::lane_idx() % 8, x = scramble(number * 8 + part) + tag;
  return Unit{{x, x ^ 0x55555555u, ~x}, part == 7 ? tag : x + 1};
}

EP_DEVICE bool is_same(const Unit& a, const Unit& b) {
  return a.word[0] == b.word[0] && a.word[1] == b.word[1] && a.word[2] == b.word[2] && a.epoch == b.epoch;
}

// Whether this is line `number` with this tag. Untagged lines are all zero.
EP_DEVICE bool is_part(const Unit& part, uint32_t number, uint32_t tag) {
  return is_same(part, tag != 0 ? made_part(number, tag) : Unit{});
}

// The tag of the line that a lane has a part of. The whole warp calls it.
EP_DEVICE uint32_t tag_of(const Unit& part) { return dev::shfl(part.epoch, dev::lane_idx() | 7); }

// This lane's part of line `number` in a rank's memory.
EP_DEVICE Unit* line_part(const Test& test, uint32_t rank, uint32_t number) {
  return test.data<Unit>(rank, number * 32) + dev::lane_idx() % 8;
}

// Every warp of rank 0 writes lines to its counterpart on rank 1, over and over, and waits for nobody. `send(part, unit)`
// stores a lane's part. Whatever arrives is whole, and no tag goes back.
template <class Send>
EP_DEVICE void stream_lines(Test& test, Send send) {
  constexpr uint32_t kStrips = 3;
  const uint32_t warp = dev::block_idx() * dev::num_warps() + dev::warp_idx();
  const auto number = [&](uint32_t strip) { return (warp * kStrips + strip) * 4 + dev::lane_idx() / 8; };
  uint32_t* is_looking = test.flag(0, warp);
  if (test.args.rank == 0) {
    AWAIT_IN_WARP(dev::all(dev::ld_relaxed<dev::Scope::system>(is_looking) == 1));
    for (uint32_t round = 1; round <= kLineRounds; ++round) {
      for (uint32_t strip = 0; strip < kStrips; ++strip) {
        send(line_part(test, 1, number(strip)), made_part(number(strip), round));
      }
    }
  } else {
    if (dev::lane_idx() == 0) dev::st_relaxed<dev::Scope::system>(is_looking, 1u);
    uint32_t seen[kStrips] = {};
    const auto have_all_come = [&] {
      bool are_last = true;
#pragma unroll
      for (uint32_t strip = 0; strip < kStrips; ++strip) {
        const Unit part = dev::ld_line(line_part(test, 1, number(strip)));
        const uint32_t tag = tag_of(part);
        EXPECT(is_part(part, number(strip), tag));
        EXPECT(tag >= seen[strip]);
        seen[strip] = tag;
        are_last = are_last && tag == kLineRounds;
      }
      return dev::all(are_last);
    };
    AWAIT_IN_WARP(have_all_come());
  }
}

LITMUS(lines_are_never_torn) {
  stream_lines(test, [](Unit* part, const Unit& unit) { dev::st_line(part, unit, true); });
}
LITMUS(line_sent_as_units) {
  stream_lines(test, [](Unit* part, const Unit& unit) { dev::st_unit(part, unit); });
}

// Each combination of active lines, in the last rank's memory. The pointers of inactive lanes lead nowhere.
LITMUS(lines_of_some_lanes) {
  if (args.rank != 0) return;
  const uint32_t line = dev::lane_idx() / 8;
  Unit* const nowhere = reinterpret_cast<Unit*>(uintptr_t{dev::lane_idx()});
  for (uint32_t active_lines = 0; active_lines < 16; ++active_lines) {
    const bool active = active_lines >> line & 1;
    Unit* const part = line_part(test, args.num_ranks - 1, active_lines * 4 + line);
    dev::st_line(active ? part : nowhere, made_part(line, 9), active);
    EXPECT(is_part(dev::ld_line(part), line, active ? 9 : 0));
  }
}

// All ranks write to all ranks, four lines with each store and each load: one to, and one from, every rank.
LITMUS(lines_anywhere) {
  constexpr uint32_t kCalls = 8;
  const uint32_t me = args.rank, warp = dev::warp_idx(), other = dev::lane_idx() / 8;
  const auto number = [&](uint32_t call, uint32_t from, uint32_t to) {
    return 13 * ((warp * kCalls + call) * 4 + from) % 251 + to;
  };
  for (uint32_t call = 0; call < kCalls; ++call) {
    dev::st_line(line_part(test, other, number(call, me, other)), made_part(number(call, me, other), me + 1), true);
  }
  for (uint32_t call = 0; call < kCalls; ++call) {
    Unit part;
    const auto have_come = [&] {
      part = dev::ld_line(line_part(test, me, number(call, other, me)));
      return dev::all(tag_of(part) == other + 1);
    };
    AWAIT_IN_WARP(have_come());
    EXPECT(is_part(part, number(call, other, me), other + 1));
  }
}

// A warp waits for a line and a unit of each of the others, which come one after the other: every rank sends them, again
// to all, as soon as it has those of the rank before.
LITMUS(lines_come_one_by_one) {
  constexpr uint32_t kStrips = 2, kUnits = 1024;
  const uint32_t me = args.rank, lane = dev::lane_idx();
  const auto unit_of = [&](uint32_t rank, uint32_t from) { return line_part(test, rank, kUnits + from); };
  for (uint32_t next = 0; next < args.num_ranks; ++next) {
    if (next == me) {
      for (uint32_t to = 0; to < args.num_ranks; ++to) {
        const bool active = lane / 8 == me % 4;
        dev::st_line(line_part(test, to, me), made_part(me, 1), active);
        if (lane == me) dev::st_unit(unit_of(to, me), Unit{{me, 2 * me, 3 * me}, 1});
      }
    }
    Unit part[kStrips], unit;
    const auto have_come = [&] {
      bool ready = true;
      unit = dev::ld_unit(unit_of(me, lane < args.num_ranks ? lane : 0));
#pragma unroll
      for (uint32_t strip = 0; strip < kStrips; ++strip) {
        const uint32_t from = strip * 4 + lane / 8;
        part[strip] = dev::ld_line(line_part(test, me, from < args.num_ranks ? from : me));
        const uint32_t tag = tag_of(part[strip]);
        ready = ready && (tag == 1 || from > next || from >= args.num_ranks);
      }
      return dev::all(ready && (unit.epoch == 1 || lane > next || lane >= args.num_ranks));
    };
    AWAIT_IN_WARP(have_come());
    for (uint32_t strip = 0; strip < kStrips; ++strip) {
      const uint32_t from = strip * 4 + lane / 8;
      if (from <= next) EXPECT(is_part(part[strip], from, 1));
    }
    if (lane <= next) EXPECT(is_same(unit, Unit{{lane, 2 * lane, 3 * lane}, 1}));
  }
}

// ---- what lines do not promise

// A word that is stored before the line, and read after it. The end of a kernel would publish it.
LITMUS(line_publishes_nothing) {
  const uint32_t lane = dev::lane_idx();
  uint32_t* has_read = test.flag(0);
  if (args.rank == 0) {
    dev::st(test.data(1, 1000 + lane), 7u);
    dev::st_line(line_part(test, 1, 0), made_part(0, 1), lane < 8);
    AWAIT(dev::ld_relaxed<dev::Scope::system>(has_read) == 1);
  } else {
    AWAIT_IN_WARP(dev::shfl(dev::ld_line(line_part(test, 1, 0)).epoch, 7) == 1);
    EXPECT(dev::ld(test.data(1, 1000 + lane)) == 7);
    if (lane == 0) dev::st_relaxed<dev::Scope::system>(has_read, 1u);
  }
}

// The lanes meet in it, but what one has stored another must not read.
LITMUS(line_orders_nothing_in_a_warp) {
  EP_SHARED(uint32_t, words, [32]);
  const uint32_t lane = dev::lane_idx();
  words[lane] = lane;
  dev::ld_line(line_part(test, 0, 0));
  EXPECT(words[lane ^ 1] == (lane ^ 1));
}

LITMUS(line_written_with_ordinary_store) {
  const uint32_t lane = dev::lane_idx();
  if (args.rank == 0) {
    if (lane < 8) dev::st(line_part(test, 1, 0), made_part(0, 1));
  } else {
    AWAIT_IN_WARP(dev::shfl(dev::ld_line(line_part(test, 1, 0)).epoch, 7) == 1);
  }
}

}  // namespace nccl_ep::litmus
