// SPDX-License-Identifier: Apache-2.0
// What crossed each link between two GPUs. The executor counts loads and stores, the GIN engine its
// transfers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nccl_ep_sim.h"

namespace nccl_ep::sim {

class LinkCounters {
 public:
  explicit LinkCounters(uint32_t num_ranks) : num_ranks_(num_ranks), links_(num_ranks * num_ranks) {}

  ncclEpSimLinkCounters_t& link(uint32_t src, uint32_t dst) { return links_[src * num_ranks_ + dst]; }

  void count_store(uint32_t src, uint32_t dst, size_t bytes) {
    ++link(src, dst).stores;
    link(src, dst).bytes += bytes;
  }
  void count_load(uint32_t src, uint32_t dst, size_t bytes) { link(src, dst).read_bytes += bytes; }
  void count_bulk_copy(uint32_t src, uint32_t dst, size_t bytes) {
    ++link(src, dst).bulk_copies;
    link(src, dst).bytes += bytes;
  }
  void count_put(uint32_t src, uint32_t dst, size_t bytes) {
    ++link(src, dst).gin_puts;
    link(src, dst).gin_put_bytes += bytes;
    link(src, dst).bytes += bytes;
  }
  void count_get(uint32_t src, uint32_t dst, size_t bytes) {
    ++link(src, dst).gin_gets;
    link(src, dst).read_bytes += bytes;
  }
  void count_signal(uint32_t src, uint32_t dst) { ++link(src, dst).gin_signals; }

  void reset() { links_.assign(links_.size(), {}); }

 private:
  uint32_t num_ranks_;
  std::vector<ncclEpSimLinkCounters_t> links_;
};

}  // namespace nccl_ep::sim
