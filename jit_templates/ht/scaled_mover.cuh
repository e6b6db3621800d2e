// SPDX-License-Identifier: Apache-2.0
// Pushing rows with their scales, unless these go apart: in the stage of their row's last piece, if bulk copies can take them.
#pragma once

#include "ht/mover.cuh"
#include "ht/scales.cuh"

namespace nccl_ep::ht {

// The whole warp calls it.
struct ScaledMover : Mover {
  static constexpr bool kHasScales = true;
  EP_DEVICE static bool takes_part() { return true; }

  const HtScales& scales;
  HtStageUse* scale_uses;  // [stage]: where the scales go that lie behind the piece

  EP_DEVICE ScaledMover(const HtMovePlan& move_plan, const HtScales& row_scales, bool raises_flags, FlagQueue& queue,
                        unsigned char* shared)
      : Mover(move_plan, raises_flags, queue, shared), scales(row_scales), scale_uses(uses + kHtStages) {}

  EP_DEVICE void open() {
    if (leads()) Mover::open();
  }

  EP_DEVICE void move(const ScaledRow<const unsigned char>& from, const ScaledRow<unsigned char>& to, uint32_t* flag) {
    if (leads()) move_in_bulk(from, to, flag);
    if (scales.go != ScalesGo::by_lanes) return;
    copy_scales(scales, from.scales, 0, 1, [&](uint32_t) { return to.scales; });
    dev::sync_warp();  // what all lanes have copied is one lane's to publish
  }

  EP_DEVICE void drain() {
    if (!leads()) return;
    while (num_stores < num_loads) store();
    finish();
  }

  EP_DEVICE void close() {
    if (leads()) Mover::close();
  }

 private:
  EP_DEVICE static bool leads() { return dev::lane_idx() == 0; }

  EP_DEVICE void move_in_bulk(const ScaledRow<const unsigned char>& from, const ScaledRow<unsigned char>& to,
                              uint32_t* flag) {
    if (has_flags) flags.add(flag);
    for (uint32_t piece = 0; piece < plan.num_pieces; ++piece) {
      const uint32_t offset = piece * plan.piece_bytes, rest = plan.row_bytes - offset;
      const bool is_last = rest <= plan.piece_bytes;
      load({from.row + offset, from.scales}, {to.row + offset, is_last ? rest : plan.piece_bytes},
           {to.scales, is_last && scales.go == ScalesGo::in_stages ? scales.row_bytes : 0});
      if (num_loads > kLoadsAhead) store();
    }
  }

  EP_DEVICE void load(const ScaledRow<const unsigned char>& from, const HtStageUse& row, const HtStageUse& its_scales) {
    const uint32_t i = await_free_stage();
    uses[i] = row;
    scale_uses[i] = its_scales;
    dev::mbar_arrive_expect_tx(loaded + i, row.bytes + its_scales.bytes);
    dev::bulk_load(stage(i), from.row, row.bytes, loaded + i);
    if (its_scales.bytes) dev::bulk_load(stage(i) + row.bytes, from.scales, its_scales.bytes, loaded + i);
  }

  EP_DEVICE void store() {
    const uint32_t i = await_full_stage();
    dev::bulk_store(uses[i].to, stage(i), uses[i].bytes);
    if (scale_uses[i].bytes) dev::bulk_store(scale_uses[i].to, stage(i) + uses[i].bytes, scale_uses[i].bytes);
    finish_store();
  }
};

}  // namespace nccl_ep::ht
