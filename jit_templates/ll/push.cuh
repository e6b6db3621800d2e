// SPDX-License-Identifier: Apache-2.0
// Pushing row chunks to other ranks with bulk copies: read once into shared memory, stored to every rank that needs
// the chunk. A few warps with two stages each keep the links busy.
#pragma once

#include "ll/rows.cuh"

namespace nccl_ep::ll {

// One chunk to be pushed. Each lane may have a destination of its own.
struct Push {
  const unsigned char* source;  // the same for all lanes; null: nothing to do
  unsigned char* destination;
  uint32_t* flag;
  uint32_t bytes;

  EP_DEVICE bool is_mine() const { return source != nullptr && destination != nullptr; }
  EP_DEVICE void raise_flag(uint32_t epoch) const {
    if (is_mine()) dev::st_release<dev::Scope::system>(flag, epoch);
  }
};

// A warp's share of the shared memory for pushing: two stages, so that one chunk is loaded while another is stored.
struct PushStages {
  static constexpr uint32_t kCount = 2;
  unsigned char* stage;
  uint32_t stage_bytes;
  dev::Mbarrier* loaded;  // [kCount]

  EP_DEVICE PushStages(const LlRowPlan& plan, unsigned char* shared, dev::Mbarrier* barriers)
      : stage(shared + uint64_t{dev::warp_idx()} * kCount * plan.stage_bytes),
        stage_bytes(plan.stage_bytes),
        loaded(barriers) {
    if (dev::lane_idx() == 0) {
      for (uint32_t i = 0; i < kCount; ++i) dev::mbar_init(&loaded[i], 1);
      dev::fence_mbar_init();
    }
    dev::sync_warp();
  }
  EP_DEVICE unsigned char* at(uint32_t n) const { return stage + n % kCount * stage_bytes; }
  EP_DEVICE void load(uint32_t n, const Push& push) const {
    if (dev::lane_idx() != 0) return;
    dev::mbar_arrive_expect_tx(&loaded[n % kCount], push.bytes);
    dev::bulk_load(at(n), push.source, push.bytes, &loaded[n % kCount]);
  }
  EP_DEVICE void await_load(uint32_t n) const { dev::mbar_wait(&loaded[n % kCount], n / kCount % 2); }
};

// Pushes the chunks job(0) ... job(num_items - 1) with the first `plan.num_send_workers` warps of the grid, in order.
// A chunk's flag is raised once the next chunk is on its way.
template <class Job>
EP_DEVICE void push_chunks(const LlRowPlan& plan, uint32_t epoch, uint32_t num_items, unsigned char* shared,
                           dev::Mbarrier* barriers, Job job) {
  if (worker_idx() >= plan.num_send_workers) return;
  const PushStages stages(plan, shared, barriers);
  uint32_t item = worker_idx();
  const auto next = [&] {
    Push push{};
    for (; item < num_items && push.source == nullptr; item += plan.num_send_workers) push = job(item);
    return push;
  };
  Push current = next(), before{};
  if (current.source) stages.load(0, current);
  for (uint32_t n = 0; current.source; ++n) {
    const Push following = next();
    stages.await_load(n);
    if (current.is_mine()) dev::bulk_store(current.destination, stages.at(n), current.bytes);
    dev::bulk_commit();
    dev::bulk_wait<1>();  // the chunk before has arrived, and its stage is free
    before.raise_flag(epoch);
    dev::sync_warp();
    if (following.source) stages.load(n + 1, following);
    before = current;
    current = following;
  }
  dev::bulk_wait<0>();
  before.raise_flag(epoch);
}

}  // namespace nccl_ep::ll
