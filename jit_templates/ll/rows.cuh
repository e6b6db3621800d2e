// SPDX-License-Identifier: Apache-2.0
// Moving row chunks, a warp at a time.
//
// A row is cut into chunks so that several warps share it and its first part is copied on while the rest is in flight.
// Whoever pushes a chunk into another rank's bank (or output window) stores it, meets its warp, and then one lane
// releases the chunk's flag at system scope; whoever reads the chunk has acquired that flag. With bulk copies the lane
// that stored the chunk waits for the copy's completion before it releases.
#pragma once

#include "device/numeric.hpp"
#include "ll/operation.cuh"

namespace nccl_ep::ll {

constexpr uint32_t kMaxWarps = 16;  // of a block
constexpr uint32_t kMaxHits = 64;

constexpr uint32_t kPacksInFlight = 8;  // per lane: loads that are issued before the first store needs one

// This warp's place among all warps of the grid; neighbours sit on different SMs.
EP_DEVICE uint32_t worker_idx() { return dev::warp_idx() * dev::num_blocks() + dev::block_idx(); }
EP_DEVICE uint32_t num_workers() { return dev::num_warps() * dev::num_blocks(); }

// The packs [begin, end) of a row that make up a chunk.
struct Chunk {
  uint32_t begin, end;

  EP_DEVICE Chunk(const LlRowPlan& plan, uint32_t chunk) : begin(chunk * plan.packs_per_chunk) {
    const uint32_t rest = plan.packs_per_row - begin;
    end = begin + (rest < plan.packs_per_chunk ? rest : plan.packs_per_chunk);
  }
};

// The packs of a chunk from `first` on that a warp holds in registers at a time: kPacksInFlight a lane.
struct PackBatch {
  static constexpr uint32_t kSize = 32 * kPacksInFlight;
  uint32_t begin, end;
  Pack pack[kPacksInFlight];

  EP_DEVICE PackBatch(const Chunk& chunk, uint32_t first) : begin(first + dev::lane_idx()), end(chunk.end) {}
  EP_DEVICE void load(const unsigned char* row) {
    const Pack* from = reinterpret_cast<const Pack*>(row) + begin;
#pragma unroll
    for (uint32_t i = 0; i < kPacksInFlight; ++i) {
      if (begin + 32 * i < end) pack[i] = dev::ld(from + 32 * i);
    }
  }
  EP_DEVICE void store(unsigned char* row) const {
    Pack* to = reinterpret_cast<Pack*>(row) + begin;
#pragma unroll
    for (uint32_t i = 0; i < kPacksInFlight; ++i) {
      if (begin + 32 * i < end) dev::st(to + 32 * i, pack[i]);
    }
  }
};

// Copies a chunk of the row at `from` to the row at `to`.
EP_DEVICE void copy_chunk(const Chunk& chunk, const unsigned char* from, unsigned char* to) {
  for (uint32_t first = chunk.begin; first < chunk.end; first += PackBatch::kSize) {
    PackBatch batch(chunk, first);
    batch.load(from);
    batch.store(to);
  }
}

// One chunk that a warp is about to push: read once, stored to the destination of every lane that has one.
struct Push {
  const unsigned char* source;  // the same for all lanes; null: nothing to do
  unsigned char* destination;
  uint32_t* flag;
  uint32_t bytes;

  EP_DEVICE bool is_mine() const { return source != nullptr && destination != nullptr; }
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

EP_DEVICE void raise_flag(const Push& push, uint32_t epoch) {
  if (push.is_mine()) dev::st_release<dev::Scope::system>(push.flag, epoch);
}

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
    raise_flag(before, epoch);
    dev::sync_warp();
    if (following.source) stages.load(n + 1, following);
    before = current;
    current = following;
  }
  dev::bulk_wait<0>();
  raise_flag(before, epoch);
}

// Waits for a chunk that another rank pushes into this rank's memory. The whole warp calls it.
EP_DEVICE bool await_chunk(const Operation& op, Wait what, uint32_t source, uint32_t token, uint32_t chunk) {
  bool ok = true;
  if (dev::lane_idx() == 0) {
    const uint32_t* flag = op.flag(op.group.rank, source, token, chunk);
    ok = wait_for(op.group, what, source, token, op.epoch,
                  [&] { return dev::ld_acquire<dev::Scope::system>(flag) == op.epoch; });
  }
  ok = dev::all(ok);
  dev::sync_warp();
  return ok;
}

}  // namespace nccl_ep::ll
