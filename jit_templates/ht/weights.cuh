// SPDX-License-Identifier: Apache-2.0
// The weights of rows: a few floats that travel beside a row as tagged units, three in each. A lane for each row.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

// Sends the floats get(0) ... get(count - 1) to a slot of a rank.
template <class Get, Peers kPeers>
EP_DEVICE void send_floats(const Operation<kPeers>& op, uint32_t rank, uint64_t slot, uint32_t count, Get get) {
  const HtGroupState& group = op.group;
  for (uint32_t u = 0; 3 * u < count; ++u) {
    Unit unit{{0, 0, 0}, op.epoch};
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j < count) unit.word[j] = dev::bits_from_float(get(3 * u + j));
    }
    dev::st_unit(group.window.at<Unit>(rank, group.layout.weight_at(slot, u)), unit);
  }
}

// Waits for a slot's floats and calls put(i, value) for each.
template <class Put, Peers kPeers>
EP_DEVICE bool receive_floats(const Operation<kPeers>& op, const Awaited& awaited, uint64_t slot, uint32_t count,
                              Put put) {
  const HtGroupState& group = op.group;
  for (uint32_t u = 0; 3 * u < count; ++u) {
    Unit unit;
    const Unit* address = group.window.at<Unit>(group.rank, group.layout.weight_at(slot, u));
    if (!op.wait_for_unit(awaited, address, unit)) return false;
#pragma unroll
    for (uint32_t j = 0; j < 3; ++j) {
      if (3 * u + j < count) put(3 * u + j, dev::float_from_bits(unit.word[j]));
    }
  }
  return true;
}

}  // namespace nccl_ep::ht
