// SPDX-License-Identifier: Apache-2.0
// Litmus programs of the network, a module of their own: on GPUs they need NCCL's device headers.
#include "network.cuh"

#if !defined(__CUDACC__) && !defined(__CUDACC_RTC__)
// On the simulator: a network of one rank's, which lives until it is closed.
#include "runtime/runtime.hpp"

namespace {

struct OpenNetwork {
  std::unique_ptr<nccl_ep::runtime::Communicator> comm;
  std::unique_ptr<nccl_ep::runtime::Network> network;
};

}  // namespace

extern "C" EP_SIM_EXPORT OpenNetwork* litmus_open_network(void* comm, uint64_t* handle) {
  using nccl_ep::litmus::kContexts, nccl_ep::litmus::kCounters, nccl_ep::litmus::kSignals;
  auto* foreign = static_cast<nccl_ep::runtime::ForeignCommunicator*>(comm);
  auto opened = std::make_unique<OpenNetwork>();
  opened->comm = foreign->open(foreign);
  opened->network = opened->comm->make_network({kContexts, kSignals, kCounters});
  opened->network->connect();
  *handle = opened->network->comm().handle;
  return opened.release();
}

extern "C" EP_SIM_EXPORT void litmus_close_network(OpenNetwork* network) { delete network; }
#endif
