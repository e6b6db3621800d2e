// SPDX-License-Identifier: Apache-2.0
// The configuration of a simulated cluster with every default filled in, and what follows from it.
#pragma once

#include <cstdint>

#include "nccl_ep_sim.h"

namespace nccl_ep::sim {

struct Topology {
  uint32_t num_nodes = 1;
  uint32_t gpus_per_node = 1;
  uint32_t lsa_team_size = 1;

  uint32_t num_ranks() const { return num_nodes * gpus_per_node; }
  uint32_t node_of(uint32_t rank) const { return rank / gpus_per_node; }
  uint32_t lsa_team_of(uint32_t rank) const { return rank / lsa_team_size; }
  uint32_t lsa_rank_of(uint32_t rank) const { return rank % lsa_team_size; }
  bool share_lsa_team(uint32_t a, uint32_t b) const { return lsa_team_of(a) == lsa_team_of(b); }
};

// Checks the caller's configuration, fills in the defaults, and draws from the seed what is left to it. Reads
// NCCL_EP_SIM_SEED. `config` may be null.
ncclEpSimConfig_t resolve(const ncclEpSimConfig_t* config);

inline Topology topology_of(const ncclEpSimConfig_t& config) {
  return {config.num_nodes, config.gpus_per_node, config.lsa_team_size};
}

}  // namespace nccl_ep::sim
