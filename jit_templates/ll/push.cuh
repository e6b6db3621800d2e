// SPDX-License-Identifier: Apache-2.0
// Pushing chunks into other ranks' memory with bulk copies out of shared memory. A warp has two stages, so that one
// chunk is prepared while another is on its way. A bulk copy tells the lane that issued it when it has arrived; so
// nobody waits for anybody else's stores, as a fence after ordinary stores would.
//
// Release and acquire: the lane that stored a chunk waits for its copy and then releases the chunk's flag at system
// scope.
#pragma once

#include "ll/rows.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kPushStages = 2;

// Where a chunk goes.
struct Push {
  unsigned char* destination;
  uint32_t* flag;
  uint32_t bytes;
};

// The chunks that one lane pushes for its warp, one after the other: prepared in the stage of its number, stored,
// flagged once it has arrived. At most one is on its way when the next is stored.
class PushQueue {
 public:
  EP_DEVICE PushQueue(const LlRowPlan& plan, uint32_t epoch, unsigned char* shared)
      : epoch_(epoch),
        stage_bytes_(plan.packs_per_chunk * 16),
        stages_(shared + uint64_t{dev::warp_idx()} * kPushStages * stage_bytes_) {}

  EP_DEVICE unsigned char* stage(uint32_t n) const { return stages_ + n % kPushStages * stage_bytes_; }
  EP_DEVICE uint32_t num_pushed() const { return num_pushed_; }

  // When it returns, the stage of the chunk before is free.
  EP_DEVICE void push(const Push& chunk) {
    dev::bulk_store(chunk.destination, stage(num_pushed_++), chunk.bytes);
    dev::bulk_commit();
    dev::bulk_wait<1>();
    raise_last_flag();
    last_flag_ = chunk.flag;
  }
  EP_DEVICE void finish() {
    dev::bulk_wait<0>();
    raise_last_flag();
  }

 private:
  EP_DEVICE void raise_last_flag() const {
    if (last_flag_) dev::st_release<dev::Scope::system>(last_flag_, epoch_);
  }

  uint32_t epoch_, stage_bytes_;
  unsigned char* stages_;
  uint32_t num_pushed_ = 0;
  uint32_t* last_flag_ = nullptr;
};

}  // namespace nccl_ep::ll
