// SPDX-License-Identifier: Apache-2.0
// The weights of rows: a few floats that travel beside a row as tagged units, three in each.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// Sends the floats get(0) ... get(count - 1) to a slot of a rank. The whole warp calls it.
template <class Get>
EP_DEVICE void send_floats(const Operation& op, uint32_t rank, uint64_t slot, uint32_t count, Get get) {
  const HtGroupState& group = op.group;
  for (uint32_t u = dev::lane_idx(); 3 * u < count; u += 32) {
    Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j < count) unit.word[j] = dev::bits_from_float(get(3 * u + j));
    }
    dev::st_unit(group.window.at<Unit>(rank, group.layout.weight_at(slot, u)), unit);
  }
}

// Waits for a slot's floats and calls put(i, value) for each, by some lane. The whole warp calls it.
template <class Put>
EP_DEVICE bool receive_floats(const Operation& op, Awaited awaited, uint64_t slot, uint32_t count, Put put) {
  const HtGroupState& group = op.group;
  bool ok = true;
  for (uint32_t u = dev::lane_idx(); ok && 3 * u < count; u += 32) {
    Unit unit;
    ok = op.wait_for_unit(awaited, group.window.at<Unit>(group.rank, group.layout.weight_at(slot, u)), unit);
    if (!ok) break;
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j < count) put(3 * u + j, dev::float_from_bits(unit.word[j]));
    }
  }
  return dev::all(ok);
}

}  // namespace nccl_ep::ht
