// SPDX-License-Identifier: Apache-2.0
// Stores to peers in all widths, units, and everyone writing to everyone.
#pragma once

#include "litmus.cuh"

namespace nccl_ep::litmus {

struct alignas(16) Sixteen {
  uint32_t word[4];
};

EP_DEVICE uint8_t expected_byte(uint32_t i) { return static_cast<uint8_t>(scramble(i)); }

template <class T>
EP_DEVICE T made_of_bytes(uint32_t at) {
  union {
    T value;
    uint8_t bytes[sizeof(T)];
  } u;
  for (uint32_t i = 0; i < sizeof(T); ++i) u.bytes[i] = expected_byte(at + i);
  return u.value;
}

// The writer stores bytes of every width; the reader loads them in every other.
template <class T>
EP_DEVICE void store_widths(Test& test, uint32_t offset, uint32_t bytes) {
  T* target = reinterpret_cast<T*>(test.data<unsigned char>(1) + offset);
  for (uint32_t i = 0; i < bytes / sizeof(T); ++i) {
    dev::st(target + i, made_of_bytes<T>(offset + i * static_cast<uint32_t>(sizeof(T))));
  }
}

template <class T>
EP_DEVICE void expect_widths(Test& test, uint32_t bytes) {
  const T* source = test.data<T>(1);
  for (uint32_t i = 0; i < bytes / sizeof(T); ++i) {
    union {
      T value;
      uint8_t bytes[sizeof(T)];
    } u;
    u.value = dev::ld(source + i);
    for (uint32_t b = 0; b < sizeof(T); ++b) {
      EXPECT(u.bytes[b] == expected_byte(i * static_cast<uint32_t>(sizeof(T)) + b));
    }
  }
}

LITMUS(widths) {
  constexpr uint32_t kZone = 64, kBytes = 5 * kZone;
  if (test.is(0, 0, 0)) {
    store_widths<uint8_t>(test, 0 * kZone, kZone);
    store_widths<uint16_t>(test, 1 * kZone, kZone);
    store_widths<uint32_t>(test, 2 * kZone, kZone);
    store_widths<uint64_t>(test, 3 * kZone, kZone);
    store_widths<Sixteen>(test, 4 * kZone, kZone);
    dev::st_release<dev::Scope::system>(test.flag(1), 1u);
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(1)) == 1);
    expect_widths<uint8_t>(test, kBytes);
    expect_widths<uint16_t>(test, kBytes);
    expect_widths<uint32_t>(test, kBytes);
    expect_widths<uint64_t>(test, kBytes);
    expect_widths<Sixteen>(test, kBytes);
  }
}

LITMUS(load_of_input) {  // after fill_input
  const uint32_t me = dev::thread_idx();
  for (uint32_t i = me; i < 1024; i += dev::num_threads()) {
    EXPECT(dev::ld_nc(test.data(args.rank, i)) == scramble(i));
    const Sixteen four = dev::ld_nc(test.data<Sixteen>(args.rank, 4 * i));
    for (uint32_t k = 0; k < 4; ++k) EXPECT(four.word[k] == scramble(4 * i + k));
  }
}

// ---- units

// One thread sends tagged units; the reader takes each as soon as its tag is right.
LITMUS(units) {
  constexpr uint32_t kUnits = 64;
  for (uint32_t epoch = 1; epoch <= 3; ++epoch) {
    for (uint32_t i = 0; i < kUnits; ++i) {
      if (test.is(0, 0, 0)) {
        const uint32_t x = i * 10 + epoch;
        dev::st_unit(test.data<Unit>(1, 4 * i), Unit{{x, x + 1, x + 2}, epoch});
      }
      if (test.is(1, 0, 0)) {
        Unit unit;
        AWAIT((unit = dev::ld_unit(test.data<Unit>(1, 4 * i)), unit.epoch >= epoch));
        // The sender does not wait, so a unit of a later epoch may be there already.
        const uint32_t x = i * 10 + unit.epoch;
        EXPECT(unit.word[0] == x && unit.word[1] == x + 1 && unit.word[2] == x + 2);
      }
    }
  }
}

LITMUS(unit_publishes_nothing) {
  if (test.is(0, 0, 0)) {
    dev::st(test.data(1, 1000), 7u);
    dev::st_unit(test.data<Unit>(1), Unit{{1, 2, 3}, 1});
  }
  if (test.is(1, 0, 0)) {
    AWAIT(dev::ld_unit(test.data<Unit>(1)).epoch == 1);
    EXPECT(dev::ld(test.data(1, 1000)) == 7);
  }
}

LITMUS(unit_written_with_ordinary_store) {
  if (test.is(0, 0, 0)) dev::st(test.data<Unit>(1), Unit{{1, 2, 3}, 1});
  if (test.is(1, 0, 0)) AWAIT(dev::ld_unit(test.data<Unit>(1)).epoch == 1);
}

// ---- everyone to everyone

// Block b of a rank serves the peers b, b + num_blocks, ...: its threads write a row into the peer's memory,
// and one raises the flag. Then the blocks collect what came. A second round reuses the rows once all peers
// have said so.
template <bool kAsksBeforeReuse>
EP_DEVICE void all_to_all(Test& test) {
  constexpr uint32_t kRowWords = 96;
  const uint32_t rank = test.args.rank, num_ranks = test.args.num_ranks, me = dev::thread_idx();
  for (uint32_t round = 1; round <= 3; ++round) {
    for (uint32_t peer = dev::block_idx(); peer < num_ranks; peer += dev::num_blocks()) {
      if (kAsksBeforeReuse && round > 1) {
        if (me == 0) AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(rank, 64 + peer)) == round - 1);
        dev::sync_block();
      }
      for (uint32_t i = me; i < kRowWords; i += dev::num_threads()) {
        dev::st(test.data(peer, rank * kRowWords + i), scramble(round * 10000 + rank * kRowWords + i));
      }
      dev::sync_block();
      if (me == 0) dev::st_release<dev::Scope::system>(test.flag(peer, rank), round);
    }
    for (uint32_t source = dev::block_idx(); source < num_ranks; source += dev::num_blocks()) {
      if (me == 0) AWAIT(dev::ld_acquire<dev::Scope::system>(test.flag(rank, source)) >= round);
      dev::sync_block();
      for (uint32_t i = me; i < kRowWords; i += dev::num_threads()) {
        const uint32_t at = source * kRowWords + i;
        EXPECT(dev::ld(test.data(rank, at)) == scramble(round * 10000 + at));
      }
      dev::sync_block();
      if (me == 0) dev::st_release<dev::Scope::system>(test.flag(source, 64 + rank), round);
    }
  }
}

LITMUS(all_to_all_rows) { all_to_all<true>(test); }
LITMUS(all_to_all_rows_reused_unasked) { all_to_all<false>(test); }

}  // namespace nccl_ep::litmus
