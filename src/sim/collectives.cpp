// SPDX-License-Identifier: Apache-2.0
#include "sim/collectives.hpp"

#include <utility>

#include "runtime/error.hpp"

namespace nccl_ep::sim {

uint64_t Collectives::arrive(uint32_t rank, const std::string& name, Bytes contribution, const check::Knowledge& host) {
  const uint64_t call = num_calls_[rank]++;
  while (rounds_.size() <= call - first_call_) {
    rounds_.push_back(std::make_shared<Round>());
    rounds_.back()->contributions.resize(num_ranks_);
  }
  at(call).contributions[rank] = {name, std::move(contribution)};
  at(call).hosts.learn(host);
  ++at(call).num_arrived;
  return call;
}

bool Collectives::is_complete(uint64_t call) const { return at(call).num_arrived == num_ranks_; }

std::vector<Collectives::Bytes> Collectives::take(uint64_t call, check::Knowledge& host) {
  const std::shared_ptr<Round> round = rounds_[call - first_call_];
  ++round->num_taken;
  while (!rounds_.empty() && rounds_.front()->num_taken == num_ranks_) {
    rounds_.pop_front();
    ++first_call_;
  }
  check_agreement(*round);
  host.learn(round->hosts);
  std::vector<Bytes> all;
  for (const Contribution& contribution : round->contributions) all.push_back(contribution.bytes);
  return all;
}

void Collectives::check_agreement(const Round& round) const {
  const Contribution& first = round.contributions[0];
  for (uint32_t rank = 1; rank < num_ranks_; ++rank) {
    const Contribution& other = round.contributions[rank];
    if (other.name == first.name && other.bytes.size() == first.bytes.size()) continue;
    throw Error(ncclInvalidUsage, "collective calls do not match: rank 0 calls " + first.name + " with " +
                                      std::to_string(first.bytes.size()) + " bytes, rank " + std::to_string(rank) +
                                      " calls " + other.name + " with " + std::to_string(other.bytes.size()) +
                                      " bytes");
  }
}

}  // namespace nccl_ep::sim
