// SPDX-License-Identifier: Apache-2.0
// Bounded waits, and what is left behind when one runs out.
#pragma once

#include "device/device.hpp"
#include "shared/group_state.hpp"

namespace nccl_ep {

// Leaves a fault where the host sees it.
EP_DEVICE void write_record(FaultRecord* record, const GroupState& group, const FaultRecord& fault) {
  record->wait = fault.wait;
  record->rank = group.rank;
  record->peer = fault.peer;
  record->token = fault.token;
  record->epoch = fault.epoch;
  record->expert = fault.expert;
  dev::st_release<dev::Scope::system>(&record->code, fault.code);
}

// Leaves the first fault of this rank to the host. `failed` makes every other wait give up.
EP_DEVICE void report(const GroupState& group, const FaultRecord& fault) {
  if (dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->failed, 1u) != 0) return;
  write_record(&group.faults->failure, group, fault);
}

// Whether an operation of this rank has failed. What it should have left for later ones may then be missing.
EP_DEVICE bool has_failed(const GroupState& group) {
  return dev::ld_relaxed<dev::Scope::gpu>(&group.progress->failed) != 0;
}

// What is awaited, in a fault's words.
struct Awaited {
  Wait what;
  uint32_t peer;
  uint32_t token;
};

// Polls until `ready()` holds. False: the wait timed out, after which `missing()` says what a fault is to speak of, or
// another one of this rank did. With kWholeWarp the lanes wait together: all call `ready`, which gives all the same answer.
template <bool kWholeWarp = false, class Ready, class Missing>
EP_DEVICE bool wait_until(const GroupState& group, uint32_t epoch, Ready ready, Missing missing) {
  const auto agreed = [](bool mine) { return kWholeWarp ? dev::any(mine) : mine; };
  uint64_t start = 0;
#pragma unroll 1
  for (uint32_t polls = 0; !ready(); ++polls) {
    if (polls < dev::kPollsBeforeClock) continue;
    if (polls == dev::kPollsBeforeClock) start = dev::clock_ns();
    if (agreed(has_failed(group))) return false;
    if (agreed(dev::clock_ns() - start > group.timeout_ns)) {
      const Awaited awaited = missing();
      report(group, {FaultRecord::kTimeout, awaited.what, 0, awaited.peer, awaited.token, epoch, 0});
      return false;
    }
    dev::pause();
  }
  return true;
}

// The same for something known before; `ready()` may put into `awaited` what is missing.
template <bool kWholeWarp = false, class Ready>
EP_DEVICE bool wait_for(const GroupState& group, uint32_t epoch, const Awaited& awaited, Ready ready) {
  return wait_until<kWholeWarp>(group, epoch, ready, [&] { return awaited; });
}

}  // namespace nccl_ep
