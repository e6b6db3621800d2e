// SPDX-License-Identifier: Apache-2.0
// Collective calls of the ranks' hosts: everybody contributes bytes and receives everybody's. Barriers and
// window registrations are gathers as well. All functions are called under the cluster's lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sim/checker.hpp"

namespace nccl_ep::sim {

class Collectives {
 public:
  using Bytes = std::vector<std::byte>;

  explicit Collectives(uint32_t num_ranks) : num_ranks_(num_ranks), num_calls_(num_ranks) {}

  // The n-th call of a rank meets the n-th call of the others. Returns n.
  uint64_t arrive(uint32_t rank, const std::string& name, Bytes contribution, const check::Knowledge& host);
  // All ranks have arrived.
  bool is_complete(uint64_t call) const;
  // Every rank takes the contributions once, and its host learns what all hosts knew when they arrived.
  // Throws if the ranks' names or sizes differ.
  std::vector<Bytes> take(uint64_t call, check::Knowledge& host);

 private:
  struct Contribution {
    std::string name;
    Bytes bytes;
  };
  struct Round {
    std::vector<Contribution> contributions;
    check::Knowledge hosts;
    uint32_t num_arrived = 0;
    uint32_t num_taken = 0;
  };

  void check_agreement(const Round& round) const;
  Round& at(uint64_t call) const { return *rounds_[call - first_call_]; }

  uint32_t num_ranks_;
  std::vector<uint64_t> num_calls_;            // of each rank
  std::deque<std::shared_ptr<Round>> rounds_;  // not yet taken by all; the front is call number first_call_
  uint64_t first_call_ = 0;
};

}  // namespace nccl_ep::sim
