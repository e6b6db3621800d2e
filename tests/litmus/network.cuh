// SPDX-License-Identifier: Apache-2.0
// The network: what each call of device/gin.hpp promises. The data is checked in the kernel that has waited for it.
//
// Rank r sends to r + 1 and receives from r - 1. Each part of the memory has one use: what is sent, what arrives.
#pragma once

#include "device/gin.hpp"
#include "litmus.cuh"

namespace nccl_ep::litmus {

constexpr uint32_t kContexts = 4, kSignals = 16, kCounters = 4;
constexpr uint32_t kSent = 0;                  // byte where the source begins
constexpr uint32_t kArrived = 64 * 1024;       // and the destination
constexpr uint32_t kSignalWords = 128 * 1024;  // and words that are signals

struct Neighbours {
  uint32_t next;
  uint32_t previous;
  EP_DEVICE explicit Neighbours(const Args& args)
      : next((args.rank + 1) % args.num_ranks), previous((args.rank + args.num_ranks - 1) % args.num_ranks) {}
};

EP_DEVICE dev::Gin gin_of(const Args& args, uint32_t context = 0) { return dev::Gin(args.network, context); }
EP_DEVICE dev::WindowAddress at(const Args& args, uint32_t byte) { return {args.window, byte}; }
EP_DEVICE dev::Signal signal_word(const Args& args, uint32_t idx) {
  return dev::signal(at(args, kSignalWords + 8 * idx));
}

// The byte at `at` of what `rank` sends in `round`.
EP_DEVICE uint8_t sent_byte(uint32_t rank, uint32_t at, uint32_t round = 0) {
  return static_cast<uint8_t>(scramble(at + 100003 * rank + 10000019 * round));
}

// By threads [first, first + count) of the block, each for itself.
EP_DEVICE void write_source(Test& test, uint32_t begin, uint32_t end, uint32_t count, uint32_t round = 0) {
  uint8_t* source = test.data<uint8_t>(test.args.rank) + kSent;
  for (uint32_t i = begin + dev::thread_idx() % count; i < end; i += count) {
    dev::st(source + i, sent_byte(test.args.rank, i, round));
  }
}

EP_DEVICE void expect_arrived(Test& test, uint32_t source, uint32_t begin, uint32_t end, uint32_t round = 0) {
  const uint8_t* arrived = test.data<uint8_t>(test.args.rank) + kArrived;
  for (uint32_t i = begin; i < end; ++i) EXPECT(dev::ld(arrived + i) == sent_byte(source, i, round));
}

// Pieces of awkward sizes: where piece i begins.
constexpr uint32_t kPieces = 6;
EP_DEVICE uint32_t piece(uint32_t i) {
  constexpr uint32_t kEnds[kPieces + 1] = {0, 1, 4, 21, 1045, 5141, 21528};
  return kEnds[i];
}

EP_DEVICE void put_piece(const dev::Gin& gin, const Args& args, uint32_t peer, uint32_t i,
                         dev::SignalAction at_peer = {}, uint32_t counter = dev::kNoCounter) {
  gin.put(peer, at(args, kArrived + piece(i)), at(args, kSent + piece(i)), piece(i + 1) - piece(i), at_peer, counter);
}

// ---- puts

// All threads write the source; one of them sends it. A strong signal speaks for all puts before it.
LITMUS(put_strong) {
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i + 1 < kPieces; ++i) put_piece(gin, args, ranks.next, i);
  put_piece(gin, args, ranks.next, kPieces - 1, dev::strong(dev::signal(3u)));
  AWAIT(gin.read_signal(dev::signal(3u)) == 1);
  expect_arrived(test, ranks.previous, 0, piece(kPieces));
}

// The same with a signal that has no data of its own, and adds.
LITMUS(signal_strong) {
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i < kPieces; ++i) put_piece(gin, args, ranks.next, i);
  gin.signal(ranks.next, dev::strong(dev::signal(kSignals - 1), (uint64_t{1} << 40) + 5));
  gin.wait_signal(dev::signal(kSignals - 1), (uint64_t{1} << 40) + 5);
  EXPECT(gin.read_signal(dev::signal(kSignals - 1)) == (uint64_t{1} << 40) + 5);
  expect_arrived(test, ranks.previous, 0, piece(kPieces));
}

// A weak signal speaks for its own put.
LITMUS(put_weak) {
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i < kPieces; ++i) put_piece(gin, args, ranks.next, i, dev::weak(dev::signal(i), i + 1));
  for (uint32_t i = 0; i < kPieces; ++i) {
    AWAIT(gin.read_signal(dev::signal(i)) == i + 1);
    expect_arrived(test, ranks.previous, piece(i), piece(i + 1));
  }
}

// Every lane sends what another lane wrote; the warp's last signal speaks for all of them.
LITMUS(put_from_all_lanes) {
  constexpr uint32_t kBytes = 100;
  const Neighbours ranks(args);
  const uint32_t warps = dev::num_blocks() * dev::num_warps();
  const uint32_t warp = dev::block_idx() * dev::num_warps() + dev::warp_idx();
  const uint32_t begin = warp * 32 * kBytes;
  write_source(test, begin, begin + 32 * kBytes, 32);
  dev::sync_warp();
  const dev::Gin gin = gin_of(args);
  const uint32_t mine = begin + dev::lane_idx() * kBytes;
  gin.put(ranks.next, at(args, kArrived + mine), at(args, kSent + mine), kBytes);
  dev::sync_warp();
  if (dev::lane_idx() == 0) gin.signal(ranks.next, dev::strong(dev::signal(5u)));
  if (!test.is(args.rank, 0, 0)) return;
  AWAIT(gin.read_signal(dev::signal(5u)) == warps);
  expect_arrived(test, ranks.previous, 0, warps * 32 * kBytes);
}

// Each warp has a context of its own.
LITMUS(contexts) {
  const Neighbours ranks(args);
  const uint32_t context = dev::warp_idx(), begin = context * 4001, end = begin + 4001;
  write_source(test, begin, end, 32);
  dev::sync_warp();
  if (dev::lane_idx() != 0) return;
  const dev::Gin gin = gin_of(args, context);
  for (uint32_t i = begin; i < end; i += 1000) {
    const uint32_t bytes = end - i < 1000 ? end - i : 1000;
    gin.put(ranks.next, at(args, kArrived + i), at(args, kSent + i), bytes);
  }
  gin.signal(ranks.next, dev::strong(dev::signal(1u), context + 1));
  AWAIT(gin.read_signal(dev::signal(1u)) == context + 1);
  expect_arrived(test, ranks.previous, begin, end);
}

LITMUS(put_to_itself) {
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i < kPieces; ++i) put_piece(gin, args, args.rank, i, dev::strong(dev::signal(2u)));
  AWAIT(gin.read_signal(dev::signal(2u)) == kPieces);
  expect_arrived(test, args.rank, 0, piece(kPieces));
}

// ---- values and signals in windows

LITMUS(put_value) {
  if (dev::thread_idx() != 0) return;
  constexpr uint64_t kValue = 0xf1e2d3c4b5a69788;
  const Neighbours ranks(args);
  const dev::Gin gin = gin_of(args);
  for (uint32_t bytes = 1; bytes <= 8; bytes *= 2) {
    gin.put_value(ranks.next, at(args, kArrived + 16 * bytes), kValue + args.rank, bytes, dev::strong(dev::signal(0u)));
  }
  AWAIT(gin.read_signal(dev::signal(0u)) == 4);
  for (uint32_t bytes = 1; bytes <= 8; bytes *= 2) {
    const uint64_t expected = (kValue + ranks.previous) << (64 - 8 * bytes) >> (64 - 8 * bytes);
    EXPECT(dev::ld(test.data<uint64_t>(args.rank) + kArrived / 8 + 2 * bytes) == expected);
    EXPECT(dev::ld(test.data<uint64_t>(args.rank) + kArrived / 8 + 2 * bytes + 1) == 0);
  }
}

LITMUS(words) {
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i < kPieces; ++i) put_piece(gin, args, ranks.next, i, dev::weak(signal_word(args, i), 7));
  gin.signal(ranks.next, dev::strong(signal_word(args, kPieces)));
  for (uint32_t i = 0; i < kPieces; ++i) {
    AWAIT(gin.read_signal(signal_word(args, i)) == 7);
    expect_arrived(test, ranks.previous, piece(i), piece(i + 1));
  }
  gin.wait_signal(signal_word(args, kPieces), 1);
  const uint64_t* word = test.data<uint64_t>(args.rank) + kSignalWords / 8 + kPieces;
  EXPECT(dev::ld_relaxed<dev::Scope::system>(word) == 1);
}

// Signals that are used again after a reset; the answer says that it has happened.
LITMUS(reset) {
  if (dev::thread_idx() != 0) return;
  const Neighbours ranks(args);
  const dev::Gin gin = gin_of(args);
  const dev::Signal answer = dev::signal(9u);
  for (uint32_t round = 1; round <= 3; ++round) {
    gin.signal(ranks.next, dev::strong(dev::signal(4u), 10));
    gin.signal(ranks.next, dev::strong(signal_word(args, 1), 20));
    AWAIT(gin.read_signal(dev::signal(4u)) == 10);
    AWAIT(gin.read_signal(signal_word(args, 1)) == 20);
    gin.reset_signal(dev::signal(4u));
    gin.reset_signal(signal_word(args, 1));
    EXPECT(gin.read_signal(dev::signal(4u)) == 0);
    EXPECT(gin.read_signal(signal_word(args, 1)) == 0);
    gin.signal(ranks.previous, dev::strong(answer));
    AWAIT(gin.read_signal(answer) == round);
  }
}

// ---- sources that are used again, and gets

// How a sender knows that it may overwrite a source.
enum class Reuse { flushed, counted, answered, unasked };
template <Reuse kReuse>
EP_DEVICE void send_again_and_again(Test& test) {
  const Args& args = test.args;
  const Neighbours ranks(args);
  const dev::Gin gin = gin_of(args, 1);
  for (uint32_t round = 1; round <= 3; ++round) {
    write_source(test, 0, piece(kPieces), dev::num_threads(), round);
    dev::sync_block();
    if (dev::thread_idx() == 0) {
      if (round > 1) AWAIT(gin.read_signal(dev::signal(7u)) == round - 1);  // the next rank has read the last round
      for (uint32_t i = 0; i < kPieces; ++i) {
        put_piece(gin, args, ranks.next, i, dev::strong(dev::signal(6u)),
                  kReuse == Reuse::counted ? 2 : dev::kNoCounter);
      }
      if (kReuse == Reuse::flushed) gin.flush();
      if (kReuse == Reuse::counted) {
        gin.wait_counter(2, kPieces);
        EXPECT(gin.read_counter(2) == kPieces);
        gin.reset_counter(2);
      }
      AWAIT(gin.read_signal(dev::signal(6u)) == round * kPieces);
      expect_arrived(test, ranks.previous, 0, piece(kPieces), round);
      gin.signal(ranks.previous, dev::strong(dev::signal(7u)));
      if (kReuse == Reuse::answered) AWAIT(gin.read_signal(dev::signal(7u)) == round);
    }
    dev::sync_block();
  }
}

LITMUS(source_reused_after_flush) { send_again_and_again<Reuse::flushed>(test); }
LITMUS(source_reused_after_counter) { send_again_and_again<Reuse::counted>(test); }
LITMUS(source_reused_after_answer) { send_again_and_again<Reuse::answered>(test); }
LITMUS(source_reused_unasked) { send_again_and_again<Reuse::unasked>(test); }

template <bool kFlushes>
EP_DEVICE void get_pieces(Test& test) {
  const Args& args = test.args;
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  dev::sync_block();
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  gin.signal(ranks.previous, dev::strong(dev::signal(8u)));  // it may be read
  AWAIT(gin.read_signal(dev::signal(8u)) == 1);
  for (uint32_t i = 0; i < kPieces; ++i) {
    gin.get(ranks.next, at(args, kSent + piece(i)), at(args, kArrived + piece(i)), piece(i + 1) - piece(i));
  }
  if (kFlushes) gin.flush();
  expect_arrived(test, ranks.next, 0, piece(kPieces));
}

LITMUS(get) { get_pieces<true>(test); }
LITMUS(get_not_flushed) { get_pieces<false>(test); }

// ---- everyone to everyone

// A block for each peer, and two rounds in the same places.
LITMUS(network_all_to_all) {
  constexpr uint32_t kBytes = 3001;
  const uint32_t peer = dev::block_idx();
  const uint32_t mine = args.rank * kBytes, theirs = peer * kBytes;
  const dev::Gin gin = gin_of(args, peer % kContexts), answers = gin_of(args, args.rank % kContexts);
  for (uint32_t round = 1; round <= 3; ++round) {
    write_source(test, theirs, theirs + kBytes, dev::num_threads(), round);
    dev::sync_block();
    if (dev::thread_idx() == 0) {
      gin.put(peer, at(args, kArrived + mine), at(args, kSent + theirs), kBytes, dev::weak(dev::signal(args.rank)));
      // What comes from a peer, and its answer, comes on the context that this rank's number names.
      AWAIT(answers.read_signal(dev::signal(peer)) == round);
      const uint8_t* arrived = test.data<uint8_t>(args.rank) + kArrived + theirs;
      for (uint32_t i = 0; i < kBytes; ++i) EXPECT(dev::ld(arrived + i) == sent_byte(peer, mine + i, round));
      gin.signal(peer, dev::strong(dev::signal(8 + args.rank)));
      AWAIT(answers.read_signal(dev::signal(8 + peer)) == round);
    }
    dev::sync_block();
  }
}

// ---- mistakes

LITMUS(weak_for_earlier_puts) {
  const Neighbours ranks(args);
  if (dev::thread_idx() != 0) return;
  write_source(test, 0, piece(kPieces), 1);
  const dev::Gin gin = gin_of(args);
  for (uint32_t i = 0; i < kPieces; ++i) {
    put_piece(gin, args, ranks.next, i, i + 1 == kPieces ? dev::weak(dev::signal(3u)) : dev::SignalAction{});
  }
  AWAIT(gin.read_signal(dev::signal(3u)) == 1);
  expect_arrived(test, ranks.previous, 0, piece(kPieces));
}

LITMUS(signal_of_another_context) {
  const Neighbours ranks(args);
  if (dev::thread_idx() != 0) return;
  write_source(test, 0, piece(kPieces), 1);
  put_piece(gin_of(args, 0), args, ranks.next, 4);
  gin_of(args, 1).signal(ranks.next, dev::strong(dev::signal(3u)));
  AWAIT(gin_of(args, 1).read_signal(dev::signal(3u)) == 1);
  expect_arrived(test, ranks.previous, piece(4), piece(5));
}

LITMUS(put_of_what_others_write) {
  const Neighbours ranks(args);
  write_source(test, 0, piece(kPieces), dev::num_threads());
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin = gin_of(args);
  put_piece(gin, args, ranks.next, 4, dev::strong(dev::signal(3u)));
  AWAIT(gin.read_signal(dev::signal(3u)) == 1);
  expect_arrived(test, ranks.previous, piece(4), piece(5));
}

}  // namespace nccl_ep::litmus
