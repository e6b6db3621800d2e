// SPDX-License-Identifier: Apache-2.0
// Moving rows through shared memory with bulk copies: each warp has a ring of stages, so that several loads and stores are
// under way. One lane drives the copies.
#pragma once

#include "ht/operation.cuh"

namespace nccl_ep::ht {

constexpr uint32_t kLoadsAhead = 2;    // loads under way before the oldest is stored
constexpr uint32_t kStoresBehind = 4;  // stores that may be unfinished when flags are raised
constexpr uint32_t kFlagBatch = 8;     // stores whose flags are raised together, since a fence waits for the whole SM
static_assert(kLoadsAhead + 1 < kHtStages && kLoadsAhead + 1 + kStoresBehind + kFlagBatch <= kHtRing);

// Rows with numbers: an output, or the window's.
struct Rows {
  uint64_t base;
  uint64_t stride;
  EP_DEVICE unsigned char* at(uint64_t row, uint64_t offset = 0) const {
    return reinterpret_cast<unsigned char*>(static_cast<uintptr_t>(base + row * stride + offset));
  }
};

EP_DEVICE Rows rows_of(const void* memory, uint64_t stride) { return {reinterpret_cast<uintptr_t>(memory), stride}; }

struct Mover {
  const HtMovePlan& plan;
  uint32_t epoch;
  unsigned char* stages;  // of this warp
  dev::Mbarrier* loaded;  // [stage]
  HtStageUse* uses;       // [kHtRing]
  uint32_t num_loads = 0, num_stores = 0;

  // `mover_idx`: which of the block's moving warps this one is. The whole warp calls it.
  EP_DEVICE Mover(const HtMovePlan& move_plan, uint32_t op_epoch, unsigned char* shared, uint32_t mover_idx)
      : plan(move_plan), epoch(op_epoch) {
    stages = shared + mover_idx * plan.mover_bytes();
    loaded = reinterpret_cast<dev::Mbarrier*>(stages + kHtStages * plan.piece_bytes);
    uses = reinterpret_cast<HtStageUse*>(loaded + kHtStages);
    if (dev::lane_idx() == 0) {
      for (uint32_t i = 0; i < kHtStages; ++i) dev::mbar_init(loaded + i, 1);
      dev::fence_mbar_init();
    }
    dev::sync_warp();
  }

  // Moves a row to some rows of `to`. row_of(i), for i below num_rows, is what lane i % 32 says. Flags are raised for the
  // row's last piece. The whole warp calls it.
  template <class RowOf>
  EP_DEVICE void move(const unsigned char* from, const Rows& to, uint32_t num_rows, RowOf row_of, uint32_t* flag) {
    for (uint32_t piece = 0; piece < plan.num_pieces; ++piece) {
      HtStageUse& use = uses[num_loads % kHtRing];
      for (uint32_t i = dev::lane_idx(); i < num_rows; i += 32) use.row[i] = row_of(i);
      if (dev::lane_idx() == 0) {
        const uint32_t offset = piece * plan.piece_bytes, rest = plan.row_bytes - offset;
        use.offset = offset;
        use.bytes = rest < plan.piece_bytes ? rest : plan.piece_bytes;
        use.num_rows = num_rows;
        use.flag = piece + 1 == plan.num_pieces ? flag : nullptr;
        load(from + offset, use.bytes);
      }
      dev::sync_warp();
      ++num_loads;
      if (num_loads > kLoadsAhead) store(to);
    }
  }

  // The same for one row of `to`, of which make(stage, offset, bytes) writes each piece: all lanes some of it.
  template <class Make>
  EP_DEVICE void make(const Rows& to, uint32_t row, Make make, uint32_t* flag) {
    for (uint32_t piece = 0; piece < plan.num_pieces; ++piece) {
      const uint32_t offset = piece * plan.piece_bytes, rest = plan.row_bytes - offset;
      const uint32_t bytes = rest < plan.piece_bytes ? rest : plan.piece_bytes;
      if (dev::lane_idx() == 0) {
        uses[num_loads % kHtRing] = {bytes, offset, 1, {row}, piece + 1 == plan.num_pieces ? flag : nullptr};
        await_stage();
      }
      dev::sync_warp();
      make(stage(num_loads), offset, bytes);
      dev::fence_proxy_async();
      dev::sync_warp();
      if (dev::lane_idx() == 0) dev::mbar_arrive(loaded + num_loads % kHtStages);
      ++num_loads;
      if (num_loads > kLoadsAhead) store(to);
    }
  }

  // Waits until everything has arrived. The whole warp calls it.
  EP_DEVICE void drain(const Rows& to) {
    while (num_stores < num_loads) store(to);
    if (dev::lane_idx() == 0) {
      dev::bulk_wait<0>();
      raise_before<0>(num_stores);
    }
    num_raised = num_stores;
    dev::sync_warp();
  }

  EP_DEVICE void close() {
    if (dev::lane_idx() == 0) {
      for (uint32_t i = 0; i < kHtStages; ++i) dev::mbar_inval(loaded + i);
    }
  }

 private:
  uint32_t num_raised = 0;  // the flags of the stores before are raised

  EP_DEVICE unsigned char* stage(uint32_t i) const { return stages + i % kHtStages * plan.piece_bytes; }

  // The next stage's last store must have been read: all but the later ones.
  EP_DEVICE void await_stage() { dev::bulk_wait_read<kHtStages - kLoadsAhead - 1>(); }

  EP_DEVICE void load(const unsigned char* from, uint32_t bytes) {
    await_stage();
    dev::mbar_arrive_expect_tx(loaded + num_loads % kHtStages, bytes);
    dev::bulk_load(stage(num_loads), from, bytes, loaded + num_loads % kHtStages);
  }

  EP_DEVICE void store(const Rows& to) {
    if (dev::lane_idx() == 0) {
      const HtStageUse& use = uses[num_stores % kHtRing];
      dev::mbar_wait(loaded + num_stores % kHtStages, num_stores / kHtStages % 2);
#pragma unroll 1
      for (uint32_t i = 0; i < use.num_rows; ++i) {
        dev::bulk_store(to.at(use.row[i], use.offset), stage(num_stores), use.bytes);
      }
      dev::bulk_commit();
    }
    ++num_stores;
    if (num_stores - num_raised < kStoresBehind + kFlagBatch) return;
    if (dev::lane_idx() == 0) raise_before<kStoresBehind>(num_stores - kStoresBehind);
    num_raised = num_stores - kStoresBehind;
  }

  // Raises the flags of the stores before `end`, as far as they have any; no more than kUnfinished stores are behind it.
  template <int kUnfinished>
  EP_DEVICE void raise_before(uint32_t end) {
    bool has_flags = false;
#pragma unroll 1
    for (uint32_t i = num_raised; i < end; ++i) has_flags |= uses[i % kHtRing].flag != nullptr;
    if (!has_flags) return;
    dev::bulk_wait<kUnfinished>();
    dev::fence<dev::Scope::system>();
#pragma unroll 1
    for (uint32_t i = num_raised; i < end; ++i) {
      uint32_t* flag = uses[i % kHtRing].flag;
      if (flag) dev::st_relaxed<dev::Scope::system>(flag, epoch);
    }
  }
};

}  // namespace nccl_ep::ht
