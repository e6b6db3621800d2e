// SPDX-License-Identifier: Apache-2.0
// What litmus programs share. A program is a kernel that runs on every rank at once and checks itself: each
// thread counts its checks and keeps the line of the first that failed. programs.py has the table of
// programs.
#pragma once

#include "device/device.hpp"
#include "shared/gin_comm.hpp"
#include "shared/types.hpp"

struct ncclWindow_vidmem;

namespace nccl_ep::litmus {

// Filled by the runners; contract.py knows this layout.
struct Args {
  PeerWindow memory;   // kWords zeroed words on each rank; of the network's programs, this rank's only
  uint32_t* verdicts;  // [thread of the grid][2]: number of checks, line of the first failed one or 0
  uint32_t rank;
  uint32_t num_ranks;
  GinComm network;            // of the network's programs
  ncclWindow_vidmem* window;  // the memory as a window, of the same
};

constexpr uint32_t kWords = 65536;
constexpr uint32_t kFlags = 49152;    // word index of the first flag
constexpr uint32_t kFlagStride = 32;  // words: flags have cache lines of their own

struct Test {
  const Args& args;
  uint32_t num_checks = 0;
  uint32_t failed_line = 0;

  EP_DEVICE explicit Test(const Args& a) : args(a) {}
  EP_DEVICE ~Test() {
    uint32_t* verdict = args.verdicts + 2 * (dev::block_idx() * dev::num_threads() + dev::thread_idx());
    dev::st(verdict, num_checks);
    dev::st(verdict + 1, failed_line);
  }

  EP_DEVICE void expect(bool holds, uint32_t line) {
    ++num_checks;
    if (!holds && failed_line == 0) failed_line = line;
  }

  // Whether this thread plays this part.
  EP_DEVICE bool is(uint32_t rank, uint32_t block, uint32_t thread) const {
    return args.rank == rank && dev::block_idx() == block && dev::thread_idx() == thread;
  }

  template <class T = uint32_t>
  EP_DEVICE T* data(uint32_t rank, uint32_t word = 0) const {
    return args.memory.at<T>(rank, uint64_t{4} * word);
  }
  EP_DEVICE uint32_t* flag(uint32_t rank, uint32_t idx = 0) const { return data(rank, kFlags + idx * kFlagStride); }

  // Waits a second at most.
  template <class Ready>
  EP_DEVICE void await(Ready ready, uint32_t line) {
    await_while(ready, [](bool goes_on) { return goes_on; }, line);
  }
  // A warp waits as one: `ready` is the same in all lanes.
  template <class Ready>
  EP_DEVICE void await_in_warp(Ready ready, uint32_t line) {
    await_while(ready, [](bool goes_on) { return dev::all(goes_on); }, line);
  }

 private:
  template <class Ready, class Agreed>
  EP_DEVICE void await_while(Ready ready, Agreed agreed, uint32_t line) {
    constexpr uint64_t kLimitNs = 1000000000;
    const uint64_t start = dev::clock_ns();
    bool is_ready = ready();
    while (!is_ready && agreed(dev::clock_ns() - start < kLimitNs)) {
      dev::pause();
      is_ready = ready();
    }
    expect(is_ready, line);
  }
};

// Something to do 32-bit arithmetic with that differs for every input.
EP_DEVICE uint32_t scramble(uint32_t x) {
  x = (x ^ (x >> 16)) * 0x7feb352du;
  x = (x ^ (x >> 15)) * 0x846ca68bu;
  return x ^ (x >> 16);
}

}  // namespace nccl_ep::litmus

#define EXPECT(...) test.expect((__VA_ARGS__), __LINE__)
#define AWAIT(...) test.await([&] { return (__VA_ARGS__); }, __LINE__)
#define AWAIT_IN_WARP(...) test.await_in_warp([&] { return (__VA_ARGS__); }, __LINE__)

// LITMUS(name) { ... } defines the kernel litmus_name; its body sees `test` and `args`.
#if defined(__CUDACC__) || defined(__CUDACC_RTC__)
#define LITMUS(name)                                                                                 \
  EP_DEVICE void body_of_##name(::nccl_ep::litmus::Test& test, const ::nccl_ep::litmus::Args& args); \
  extern "C" __global__ void litmus_##name(const __grid_constant__::nccl_ep::litmus::Args args) {    \
    ::nccl_ep::litmus::Test test(args);                                                              \
    body_of_##name(test, args);                                                                      \
  }                                                                                                  \
  EP_DEVICE void body_of_##name([[maybe_unused]] ::nccl_ep::litmus::Test& test,                      \
                                [[maybe_unused]] const ::nccl_ep::litmus::Args& args)
#else
#define LITMUS(name)                                                                              \
  static void body_of_##name(::nccl_ep::litmus::Test& test, const ::nccl_ep::litmus::Args& args); \
  static void litmus_##name(const ::nccl_ep::litmus::Args& args) {                                \
    ::nccl_ep::litmus::Test test(args);                                                           \
    body_of_##name(test, args);                                                                   \
  }                                                                                               \
  EP_SIM_KERNEL("litmus_" #name, litmus_##name, ::nccl_ep::litmus::Args)                          \
  static void body_of_##name([[maybe_unused]] ::nccl_ep::litmus::Test& test,                      \
                             [[maybe_unused]] const ::nccl_ep::litmus::Args& args)
#endif
