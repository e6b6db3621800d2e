// SPDX-License-Identifier: Apache-2.0
#include "sim/communicator.hpp"

#include <cstring>
#include <string>
#include <utility>

namespace nccl_ep::sim {

namespace {

struct Registration {
  std::byte* memory;
  size_t bytes;
  bool is_symmetric;  // lies in an allocation that can back a window
};

void check_symmetric(const Registration& registration, size_t rank) {
  if (registration.is_symmetric) return;
  throw Error(ncclInvalidArgument, "rank " + std::to_string(rank) + " registers " + std::to_string(registration.bytes) +
                                       " bytes that do not lie in memory from ncclEpSimMemAlloc");
}

// The address of a window on the ranks of an LSA team must be linear in the rank.
PeerWindow linear_peers(const std::vector<std::byte*>& memory, uint32_t first_rank, uint32_t num_ranks) {
  const auto address = [&](uint32_t i) { return reinterpret_cast<uint64_t>(memory[first_rank + i]); };
  const uint64_t stride = num_ranks > 1 ? address(1) - address(0) : 0;
  for (uint32_t i = 1; i < num_ranks; ++i) {
    if (address(i) == address(0) + i * stride) continue;
    throw Error(ncclInvalidUsage, "the window's memory is at different offsets on ranks " + std::to_string(first_rank) +
                                      " and " + std::to_string(first_rank + i) +
                                      "; on the simulator all ranks must allocate symmetric memory in the same order "
                                      "with the same sizes");
  }
  return {address(0), stride};
}

void check_network(const ncclEpSimConfig_t& config, const runtime::NetworkNeeds& needs) {
  if (config.network == NCCL_EP_SIM_NETWORK_OFF) {
    throw Error(ncclInvalidUsage,
                "the simulated cluster has no network: ncclEpSimConfig_t.network is OFF, expected ON to reach ranks "
                "outside the LSA team");
  }
  if (config.network == NCCL_EP_SIM_NETWORK_RAILS && needs.reach != runtime::NetworkNeeds::Reach::rail) {
    throw Error(
        ncclInvalidUsage,
        "the simulated cluster connects ranks along rails only, which is enough for High Throughput without masks: "
        "ncclEpSimConfig_t.network is RAILS, expected ON to reach every rank");
  }
  const auto check_most = [](const char* field, uint32_t most, uint32_t wanted) {
    if (most == 0 || wanted <= most) return;
    throw Error(ncclInvalidUsage, "ncclEpSimConfig_t." + std::string(field) + " is " + std::to_string(most) +
                                      ", expected 0 or at least " + std::to_string(wanted));
  };
  check_most("num_gin_signals", config.num_gin_signals, needs.num_signals);
  check_most("num_gin_counters", config.num_gin_counters, needs.num_counters);
}

template <class T>
Collectives::Bytes to_bytes(const T* data, size_t bytes) {
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  return {begin, begin + bytes};
}

class SimNetwork final : public runtime::Network {
 public:
  SimNetwork(std::shared_ptr<Cluster> cluster, Rank& rank, const runtime::NetworkNeeds& needs)
      : cluster_(std::move(cluster)), rank_(rank), needs_(needs) {}
  ~SimNetwork() override {
    if (comm_.handle == 0 || !cluster_->is_of_this_process()) return;
    const Hosts::Lock lock = cluster_->lock();
    cluster_->gin().disconnect(comm_);
  }

  void connect() override {
    Hosts::Lock lock = cluster_->lock();
    const Collectives::Bytes mine = to_bytes(&needs_, sizeof(needs_));
    const auto everybodys = cluster_->gather(lock, rank_, "connect_network", mine);
    for (uint32_t rank = 0; rank < everybodys.size(); ++rank) {
      if (everybodys[rank] == mine) continue;
      throw Error(ncclInvalidUsage, "rank " + std::to_string(rank) + " asks for another network than this one");
    }
    // Not before: which of the ranks' networks are one goes by how many each has connected.
    comm_ = cluster_->gin().connect(rank_.index, needs_);
  }

  const GinComm& comm() const override { return comm_; }

 private:
  std::shared_ptr<Cluster> cluster_;
  Rank& rank_;
  runtime::NetworkNeeds needs_;
  GinComm comm_{};
};

}  // namespace

SimCommunicator::SimCommunicator(std::shared_ptr<Cluster> cluster, uint32_t rank)
    : cluster_(cluster), rank_(cluster->rank(static_cast<int>(rank))), device_(cluster, rank) {}

void* SimCommunicator::allocate_symmetric(size_t bytes) {
  const Hosts::Lock lock = cluster_->lock();
  rank_.check_may_allocate();
  return cluster_->allocate(rank_, {bytes}, Memory::Zone::symmetric);
}

void SimCommunicator::release_symmetric(void* memory) noexcept {
  if (!cluster_->is_of_this_process()) return;
  const Hosts::Lock lock = cluster_->lock();
  if (!rank_.owns(memory, Memory::Zone::symmetric)) return;
  rank_.spoil_captures_by_release();
  cluster_->release(rank_, memory);
}

ncclWindow_t SimCommunicator::register_window(void* memory, size_t bytes) {
  Hosts::Lock lock = cluster_->lock();
  const void* allocation = cluster_->executor().memory().find_allocation(rank_.index, memory, bytes);
  const Registration own{static_cast<std::byte*>(memory), bytes, rank_.owns(allocation, Memory::Zone::symmetric)};
  auto window = std::make_unique<Window>();
  for (const Collectives::Bytes& other :
       cluster_->gather(lock, rank_, "ncclEpSimWindowRegister", to_bytes(&own, sizeof(own)))) {
    Registration registration;
    std::memcpy(&registration, other.data(), sizeof(registration));
    check_symmetric(registration, window->memory.size());
    window->memory.push_back(registration.memory);
    window->bytes.push_back(registration.bytes);
  }
  const uint32_t team_size = cluster_->topology().lsa_team_size;
  window->peers = linear_peers(window->memory, rank_.index - rank_.index % team_size, team_size);
  return reinterpret_cast<ncclWindow_t>(rank_.windows.add(std::move(window)));
}

void SimCommunicator::deregister_window(ncclWindow_t window) noexcept {
  if (!cluster_->is_of_this_process()) return;
  const Hosts::Lock lock = cluster_->lock();
  rank_.windows.take(window);
}

PeerWindow SimCommunicator::peers(ncclWindow_t window, size_t offset) {
  const Hosts::Lock lock = cluster_->lock();
  const Window& registered = rank_.window(window);
  const size_t bytes = registered.bytes[rank_.index];
  if (offset > bytes) {
    throw Error(ncclInvalidArgument,
                "an offset of " + std::to_string(offset) + " into a window of " + std::to_string(bytes) + " bytes");
  }
  return {registered.peers.base + offset, registered.peers.stride};
}

std::unique_ptr<runtime::Network> SimCommunicator::make_network(const runtime::NetworkNeeds& needs) {
  check_network(cluster_->config(), needs);
  return std::make_unique<SimNetwork>(cluster_, rank_, needs);
}

void SimCommunicator::all_gather(const void* in, void* out, size_t bytes) {
  Hosts::Lock lock = cluster_->lock();
  auto* next = static_cast<std::byte*>(out);
  for (const Collectives::Bytes& other : cluster_->gather(lock, rank_, "ncclEpSimAllGather", to_bytes(in, bytes))) {
    std::memcpy(next, other.data(), bytes);
    next += bytes;
  }
}

}  // namespace nccl_ep::sim
