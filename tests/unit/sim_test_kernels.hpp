// SPDX-License-Identifier: Apache-2.0
// Small kernels for tests of the simulated cluster, launched by name.
#pragma once

#include <cstdint>

namespace nccl_ep::sim::test {

// "test_count": out[i] = in[i] + 1 (in null: 1) for all i < count.
// "test_count_raw": the same through raw pointers, for at most as many as a block has threads.
struct CountArgs {
  const uint32_t* in;
  uint32_t* out;
  uint32_t count;
};

// "test_raise": stores `value` at `data` and then 1 at `flag`, both of any rank.
// "test_await": waits for 1 at `flag`, then copies `data` to `out`.
struct FlagArgs {
  uint32_t* flag;
  uint32_t* data;
  uint32_t* out;
  uint32_t value;
};

}  // namespace nccl_ep::sim::test
