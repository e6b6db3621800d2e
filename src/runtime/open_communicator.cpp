// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/communicator.hpp"
#include "runtime/runtime.hpp"

namespace nccl_ep::runtime {

std::unique_ptr<Communicator> open_communicator(ncclComm_t comm) {
  if (comm == nullptr) throw Error(ncclInvalidArgument, "comm: NULL, expected a communicator");
  auto* foreign = reinterpret_cast<ForeignCommunicator*>(comm);
  if (foreign->mark == ForeignCommunicator::kMark) return foreign->open(foreign);
  return cuda::open_communicator(comm);
}

}  // namespace nccl_ep::runtime
