// SPDX-License-Identifier: Apache-2.0
#include "sim_network_kernels.hpp"

#include "device/device.hpp"

namespace nccl_ep::sim::test {

namespace {

dev::WindowAddress word(const GinArgs& args, uint64_t index) { return {args.window, index * sizeof(uint32_t)}; }

// Two puts to rank 1; the signal rides on the second.
void send_two(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, i + 1);
  const dev::Gin gin(args.comm, 0), other(args.comm, 1);
  const dev::Gin& first = args.variant == kTwoContexts ? other : gin;
  const dev::Signal signal = args.variant == kVaSignal ? dev::signal(word(args, 4 * kWords)) : dev::signal(uint32_t{3});
  first.put(1, word(args, 2 * kWords), word(args, 0), kWords * 4);
  gin.put(1, word(args, 3 * kWords), word(args, kWords), kWords * 4,
          args.variant == kWeak ? dev::weak(signal) : dev::strong(signal));
}

// One thread puts, a thread of another warp signals when it has seen that.
void put_and_hand_over(const GinArgs& args) {
  EP_SHARED(uint32_t, handed_over, [1]);
  if (dev::thread_idx() == 0) handed_over[0] = 0;
  dev::sync_block();
  const dev::Gin gin(args.comm, 0);
  const bool ordered = args.variant == kOrdered;
  if (dev::thread_idx() == 0) {
    for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, i + 1);
    gin.put(1, word(args, 2 * kWords), word(args, 0), 2 * kWords * 4);
    if (ordered) dev::st_release<dev::Scope::block>(handed_over, 1u);
    if (!ordered) dev::st_relaxed<dev::Scope::block>(handed_over, 1u);
  }
  if (dev::thread_idx() != 32) return;
  while ((ordered ? dev::ld_acquire<dev::Scope::block>(handed_over)
                  : dev::ld_relaxed<dev::Scope::block>(handed_over)) == 0) {
    dev::pause();
  }
  gin.signal(1, dev::strong(dev::signal(uint32_t{3})));
}

void receive_two(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  gin.wait_signal(args.variant == kVaSignal ? dev::signal(word(args, 4 * kWords)) : dev::signal(uint32_t{3}), 1);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.out + i, dev::ld(args.memory + 2 * kWords + i));
}

// Sends a buffer, and overwrites it when `variant` allows it: 0 at once, 1 after a flush, 2 after its
// counter.
void send_and_overwrite(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 2);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, i + 1);
  gin.put(1, word(args, 2 * kWords), word(args, 0), 2 * kWords * 4, dev::strong(dev::signal(uint32_t{3})), 5);
  if (args.variant == 1) gin.flush();
  if (args.variant == 2) gin.wait_counter(5, 1);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, 0u);
}

void receive_one(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 2);
  gin.wait_signal(dev::signal(uint32_t{3}), 1);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.out + i, dev::ld(args.memory + 2 * kWords + i));
  gin.reset_signal(dev::signal(uint32_t{3}));
}

// Sends a buffer, and overwrites it: with `variant` when rank 1 has said that it has seen the signal, else at once.
void send_twice(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, i + 1);
  gin.put(1, word(args, 2 * kWords), word(args, 0), 2 * kWords * 4);
  gin.signal(1, dev::strong(dev::signal(uint32_t{3})));
  if (args.variant) gin.wait_signal(dev::signal(uint32_t{1}), 1);
  for (uint32_t i = 0; i < 2 * kWords; ++i) dev::st(args.memory + i, 0u);
}

void receive_and_answer(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  gin.wait_signal(dev::signal(uint32_t{3}), 1);
  gin.signal(0, dev::weak(dev::signal(uint32_t{1})));
}

// Rank 0 gets what rank 1 has, with a value of its own put there first.
void get_back(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  gin.put_value(1, word(args, 0), 1234, 4, dev::strong(dev::signal(uint32_t{0})));
  gin.wait_signal(dev::signal(uint32_t{1}), 5);
  gin.get(1, word(args, 0), word(args, 1), 4);
  gin.flush();
  dev::st(args.out, dev::ld(args.memory + 1));
}

// Puts something to rank 1, and says whether that has left soon.
void put_and_flush(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  gin.put(1, word(args, 2 * kWords), word(args, 0), kWords * 4);
  dev::st(args.out, uint32_t{gin.flush_within(1'000'000'000)});
}

void answer(const GinArgs& args) {
  if (dev::thread_idx() != 0) return;
  const dev::Gin gin(args.comm, 0);
  gin.wait_signal(dev::signal(uint32_t{0}), 1);
  gin.signal(0, dev::strong(dev::signal(uint32_t{1}), 5));
}

}  // namespace

EP_SIM_KERNEL("test_gin_send_two", send_two, GinArgs)
EP_SIM_KERNEL("test_gin_put_and_flush", put_and_flush, GinArgs)
EP_SIM_KERNEL("test_gin_put_and_hand_over", put_and_hand_over, GinArgs)
EP_SIM_KERNEL("test_gin_receive_two", receive_two, GinArgs)
EP_SIM_KERNEL("test_gin_send_and_overwrite", send_and_overwrite, GinArgs)
EP_SIM_KERNEL("test_gin_receive_one", receive_one, GinArgs)
EP_SIM_KERNEL("test_gin_send_twice", send_twice, GinArgs)
EP_SIM_KERNEL("test_gin_receive_and_answer", receive_and_answer, GinArgs)
EP_SIM_KERNEL("test_gin_get_back", get_back, GinArgs)
EP_SIM_KERNEL("test_gin_answer", answer, GinArgs)

}  // namespace nccl_ep::sim::test
