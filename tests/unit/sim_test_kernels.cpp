// SPDX-License-Identifier: Apache-2.0
#include "sim_test_kernels.hpp"

#include "device/device.hpp"

namespace nccl_ep::sim::test {

namespace {

void count(const CountArgs& args) {
  const uint32_t stride = dev::num_blocks() * dev::num_threads();
  for (uint32_t i = dev::block_idx() * dev::num_threads() + dev::thread_idx(); i < args.count; i += stride) {
    dev::st(args.out + i, (args.in == nullptr ? 0 : dev::ld(args.in + i)) + 1);
  }
}

void count_raw(const CountArgs& args) {
  if (dev::thread_idx() >= args.count) return;
  args.out[dev::thread_idx()] = (args.in == nullptr ? 0 : args.in[dev::thread_idx()]) + 1;
}

void raise(const FlagArgs& args) {
  if (dev::thread_idx() != 0) return;
  dev::st(args.data, args.value);
  dev::st_release<dev::Scope::system>(args.flag, 1u);
}

void raise_without_release(const FlagArgs& args) {
  if (dev::thread_idx() != 0) return;
  dev::st(args.data, args.value);
  dev::st_relaxed<dev::Scope::system>(args.flag, 1u);
}

void await(const FlagArgs& args) {
  if (dev::thread_idx() != 0) return;
  while (dev::ld_acquire<dev::Scope::system>(args.flag) == 0) dev::pause();
  dev::st(args.out, dev::ld(args.data));
}

}  // namespace

EP_SIM_KERNEL("test_count", count, CountArgs)
EP_SIM_KERNEL("test_count_raw", count_raw, CountArgs)
EP_SIM_KERNEL("test_raise", raise, FlagArgs)
EP_SIM_KERNEL("test_raise_without_release", raise_without_release, FlagArgs)
EP_SIM_KERNEL("test_await", await, FlagArgs)

}  // namespace nccl_ep::sim::test
