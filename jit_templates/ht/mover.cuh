// SPDX-License-Identifier: Apache-2.0
// Pushing rows through shared memory with bulk copies: each warp has a ring of stages, so that several loads and stores are
// under way.
#pragma once

#include "ht/flags.cuh"

namespace nccl_ep::ht {

constexpr uint32_t kLoadsAhead = 2;    // loads under way before the oldest is stored
constexpr uint32_t kStoresBehind = 4;  // stores that may be unfinished while others go on
static_assert(kLoadsAhead + 1 < kHtStages && kLoadsAhead + 1 + kStoresBehind < FlagQueue::kSize);

// One lane of the warp calls it.
struct Mover {
  static constexpr bool kHasScales = false;
  EP_DEVICE static bool takes_part() { return dev::lane_idx() == 0; }

  const HtMovePlan& plan;
  bool has_flags;  // somebody looks at single rows
  FlagSender flags;
  unsigned char* stages;  // of this warp
  dev::Mbarrier* loaded;  // [stage]
  HtStageUse* uses;       // [stage]
  uint32_t num_loads = 0, num_stores = 0;

  // `shared`: of this warp, as its queue is.
  EP_DEVICE Mover(const HtMovePlan& move_plan, bool raises_flags, FlagQueue& queue, unsigned char* shared)
      : plan(move_plan),
        has_flags(raises_flags),
        flags{queue},
        stages(shared),
        loaded(reinterpret_cast<dev::Mbarrier*>(stages + kHtStages * plan.stage_bytes)),
        uses(reinterpret_cast<HtStageUse*>(loaded + kHtStages)) {}

  // for_each_flow() has a proxy fence between this and the first bulk copy.
  EP_DEVICE void open() {
    for (uint32_t i = 0; i < kHtStages; ++i) dev::mbar_init(loaded + i, 1);
  }

  // Moves a row; `flag` is raised when it has arrived.
  EP_DEVICE void move(const unsigned char* from, unsigned char* to, uint32_t* flag) {
    if (has_flags) flags.add(flag);
    for (uint32_t piece = 0; piece < plan.num_pieces; ++piece) {
      const uint32_t offset = piece * plan.piece_bytes, rest = plan.row_bytes - offset;
      load(from + offset, {to + offset, rest < plan.piece_bytes ? rest : plan.piece_bytes});
      if (num_loads > kLoadsAhead) store();
    }
  }

  // Waits until everything has arrived.
  EP_DEVICE void drain() {
    while (num_stores < num_loads) store();
    finish();
  }

  EP_DEVICE void close() {
    if (has_flags) flags.close();
    for (uint32_t i = 0; i < kHtStages; ++i) dev::mbar_inval(loaded + i);
  }

 protected:
  EP_DEVICE unsigned char* stage(uint32_t i) const { return stages + i % kHtStages * plan.stage_bytes; }

  // The next stage to be filled, when its last store has read it: all but the later ones.
  EP_DEVICE uint32_t await_free_stage() {
    dev::bulk_wait_read<kHtStages - kLoadsAhead - 1>();
    return num_loads++ % kHtStages;
  }
  // The next stage to be stored, when it is filled.
  EP_DEVICE uint32_t await_full_stage() const {
    dev::mbar_wait(loaded + num_stores % kHtStages, num_stores / kHtStages % 2);
    return num_stores % kHtStages;
  }
  EP_DEVICE void finish_store() {
    dev::bulk_commit();
    ++num_stores;
    if (!has_flags || num_stores < kStoresBehind) return;
    dev::bulk_wait<kStoresBehind>();
    flags.finish((num_stores - kStoresBehind) / plan.num_pieces);
  }
  EP_DEVICE void finish() {
    dev::bulk_wait<0>();
    if (has_flags) flags.finish(num_stores / plan.num_pieces);
  }

 private:
  EP_DEVICE void load(const unsigned char* from, const HtStageUse& use) {
    const uint32_t i = await_free_stage();
    uses[i] = use;
    dev::mbar_arrive_expect_tx(loaded + i, use.bytes);
    dev::bulk_load(stage(i), from, use.bytes, loaded + i);
  }

  EP_DEVICE void store() {
    const uint32_t i = await_full_stage();
    dev::bulk_store(uses[i].to, stage(i), uses[i].bytes);
    finish_store();
  }
};

}  // namespace nccl_ep::ht
