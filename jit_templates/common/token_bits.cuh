// SPDX-License-Identifier: Apache-2.0
// Sets of tokens in shared memory.
#pragma once

#include "device/device.hpp"

namespace nccl_ep {

// Which tokens have some property: one bit each.
struct TokenBits {
  uint32_t* word;

  // Whether the token was not in yet.
  EP_DEVICE bool insert(uint32_t token) const {
    const uint32_t bit = 1u << token % 32;
    return !(dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(word + token / 32, bit) & bit);
  }
  // How many are in the first words; how many tokens before `token` are.
  EP_DEVICE uint32_t count(uint32_t num_words) const {
    uint32_t count = 0;
#pragma unroll 4
    for (uint32_t i = 0; i < num_words; ++i) count += dev::popc(word[i]);
    return count;
  }
  EP_DEVICE uint32_t count_before(uint32_t token) const {
    return count(token / 32) + dev::popc(word[token / 32] & ((1u << token % 32) - 1));
  }
};

}  // namespace nccl_ep
