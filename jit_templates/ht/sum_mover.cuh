// SPDX-License-Identifier: Apache-2.0
// Pushing sums of rows as E4M3 numbers with scales, by way of shared memory: parts of the rows come into a ring of stages by
// bulk copies, several under way; the warp adds them up in registers, quantizes the sum and writes it into a stage from which
// a bulk copy takes it home.
#pragma once

#include "ht/flags.cuh"
#include "ht/quantized_rows.cuh"

namespace nccl_ep::ht {

// A part of a row as it is added up and quantized. Lanes have neighbouring elements, 32 each, so four of them have a group, in
// packs which they take in such an order that those of a few lanes lie in different banks.
struct QuantizedPart {
  static constexpr uint32_t kLaneElements = 8 * kSumPacks, kLanesOfGroup = kScaleGroup / kLaneElements;
  static constexpr uint32_t kElements = kHtSumPartBytes / sizeof(uint16_t);
  static_assert(32 * kLaneElements == kElements && kQuantizedBlock % kElements == 0);

  // The i-th pack that this lane looks at.
  EP_DEVICE static uint32_t pack(uint32_t i) { return i ^ dev::lane_idx() / 2 % kSumPacks; }
  EP_DEVICE static uint32_t first() { return kLaneElements * dev::lane_idx(); }

  // Those of a part of a row of bf16 in its stage. Behind the row's end is anything, and nobody asks for it.
  EP_DEVICE static void load(const unsigned char* part, Pack (&packs)[kSumPacks]) {
    const Pack* mine = reinterpret_cast<const Pack*>(part) + kSumPacks * dev::lane_idx();
#pragma unroll
    for (uint32_t i = 0; i < kSumPacks; ++i) packs[i] = dev::ld_shared(mine + pack(i));
  }

  // The scale of the group. All lanes call it.
  EP_DEVICE static GroupScale scale_of(const PackSum<DType::bf16>& sum) {
    float most = 0;
#pragma unroll
    for (uint32_t i = 0; i < kLaneElements; ++i) most = dev::max_abs(most, sum.value[i / 8][i / 2 % 4][i % 2]);
#pragma unroll
    for (uint32_t other = 1; other < kLanesOfGroup; other *= 2) most = dev::max_abs(most, dev::shfl_xor(most, other));
    return GroupScale::of(dev::bits_from_float(most) & 0x7fffffff, false);
  }

  // Quantizes the part that begins with an element of a piece, which has its form of a row on its way. All lanes call it.
  EP_DEVICE static void store(const PackSum<DType::bf16>& sum, const QuantizedRow& piece, uint32_t at,
                              unsigned char* to) {
    const GroupScale scale = scale_of(sum);
    const uint32_t first = at + QuantizedPart::first();
    if (first >= piece.num_elements) return;
    if (dev::lane_idx() % kLanesOfGroup == 0) {
      dev::st_shared(reinterpret_cast<float*>(to + piece.scale(first)), scale.scale);
    }
    const uint32_t step = piece.is_alone(first) ? 8 : 16;
    unsigned char* mine = to + piece.numbers(first);
#pragma unroll
    for (uint32_t i = 0; i < kSumPacks; ++i) {
      const float (&element)[4][2] = sum.value[i];
      dev::st_shared(reinterpret_cast<Numbers*>(mine + step * pack(i)),
                     Numbers{{quantize_floats(element[0], element[1], scale.inverse),
                              quantize_floats(element[2], element[3], scale.inverse)}});
    }
  }
};

// Rows that are added up, and where their sum goes; in shared memory.
struct ListedSum {
  Addend rows[kMaxTopk];
  uint32_t num_rows;
  unsigned char* to;
};

// The whole warp calls it.
struct SumMover {
  static constexpr uint32_t kStoresBehind = 4;  // stores that may be unfinished while others go on
  static constexpr uint32_t kLists = 2;         // the sum that is made, and the one behind it, which is being loaded
  static_assert(kHtSumStages <= kStoresBehind && kStoresBehind + kLists < FlagQueue::kSize);

  const HtMovePlan& plan;
  FlagSender flags;
  ListedSum (&lists)[kLists];
  dev::Mbarrier* loaded;  // [stage for a part]; behind them these stages, and those for pieces
  uint32_t num_listed = 0, num_stores = 0;
  uint32_t stage = 0, parity = 0;  // of the part that comes next, and of its mbarrier's phase
  uint32_t num_free;               // stages for parts, behind those that are being loaded
  // What is loaded next: of the last sum begun, from where in which of its rows.
  uint32_t num_begun = 0, load_at, load_row = 0;

  // `shared`: of this warp, as its queue is.
  EP_DEVICE SumMover(const HtMovePlan& move_plan, FlagQueue& queue, ListedSum (&sums)[kLists], unsigned char* shared)
      : plan(move_plan),
        flags{queue},
        lists(sums),
        loaded(reinterpret_cast<dev::Mbarrier*>(shared)),
        num_free(plan.num_parts),
        load_at(plan.row_bytes) {}

  // for_each_flow() has a proxy fence between this and the first bulk copy.
  EP_DEVICE void open() {
    if (!leads()) return;
    for (uint32_t i = 0; i < plan.num_parts; ++i) dev::mbar_init(loaded + i, 1);
  }

  // Where the lanes put the rows of the next sum.
  EP_DEVICE Addend* rows() { return lists[num_listed % kLists].rows; }

  // Pushes the sum of these rows; the flag is raised when it has arrived. The sum before is made meanwhile.
  EP_DEVICE void push(uint32_t num_rows, unsigned char* to, uint32_t* flag) {
    if (leads()) {
      flags.add(flag);
      ListedSum& sum = lists[num_listed % kLists];
      sum.num_rows = num_rows;
      sum.to = to;
    }
    ++num_listed;
    dev::sync_warp();  // all of the list is written
    fill();
    if (num_listed > 1) make_sum(lists[num_listed % kLists]);
  }

  // Waits until everything has arrived.
  EP_DEVICE void drain() {
    if (num_listed > 0) make_sum(lists[(num_listed - 1) % kLists]);
    if (!leads()) return;
    dev::bulk_wait<0>();
    flags.finish(num_listed);
  }

  EP_DEVICE void close() {
    if (!leads()) return;
    flags.close();
    for (uint32_t i = 0; i < plan.num_parts; ++i) dev::mbar_inval(loaded + i);
  }

 private:
  EP_DEVICE static bool leads() { return dev::lane_idx() == 0; }
  EP_DEVICE unsigned char* part(uint32_t i) const {
    return reinterpret_cast<unsigned char*>(loaded + kHtMaxSumParts) + i * kHtSumPartBytes;
  }
  // The stage of the next piece.
  EP_DEVICE unsigned char* piece() const { return part(plan.num_parts) + num_stores % kHtSumStages * plan.stage_bytes; }

  // Issues loads while there are stages and something to load.
  EP_DEVICE void fill() {
    while (num_free > 0 && load_next()) {
    }
  }
  // Issues the next loads of a part, a lane for each row: as many as there are stages. False: nothing is left to be loaded.
  EP_DEVICE bool load_next() {
    if (load_at >= plan.row_bytes) {
      if (num_begun == num_listed) return false;
      ++num_begun;
      load_at = 0;
    }
    const ListedSum& sum = lists[(num_begun - 1) % kLists];
    const uint32_t num_left = sum.num_rows - load_row, count = num_left < num_free ? num_left : num_free;
    if (dev::lane_idx() < count) load(sum.rows[load_row + dev::lane_idx()]);
    num_free -= count;
    load_row += count;
    if (load_row == sum.num_rows) {
      load_row = 0;
      load_at += kHtSumPartBytes;
    }
    return true;
  }
  EP_DEVICE void load(const unsigned char* row) {
    const uint32_t begin = stage + plan.num_parts - num_free + dev::lane_idx();
    const uint32_t to = begin < plan.num_parts ? begin : begin - plan.num_parts;
    const uint32_t rest = plan.row_bytes - load_at, bytes = rest < kHtSumPartBytes ? rest : kHtSumPartBytes;
    dev::mbar_arrive_expect_tx(loaded + to, bytes);
    dev::bulk_load(part(to), row + load_at, bytes, loaded + to);
  }

  // The part of the next row. Its stage is free when all lanes have it.
  EP_DEVICE void take_part(Pack (&packs)[kSumPacks]) {
    dev::mbar_wait(loaded + stage, parity);
    QuantizedPart::load(part(stage), packs);
    ++num_free;
    if (++stage < plan.num_parts) return;
    stage = 0;
    parity ^= 1;
  }
  EP_DEVICE void load_into_free() {
    dev::sync_warp();  // all lanes have read what was there
    fill();
  }
  // Adds up the part that begins with an element of a piece, and quantizes it. Many rows are alone: they have code of their own, and their elements stay where they are.
  EP_DEVICE void make_part(uint32_t num_rows, const QuantizedRow& form, uint32_t at) {
    Pack packs[kSumPacks];
    take_part(packs);
    PackSum<DType::bf16> sum(packs);
    if (num_rows == 1) {
      load_into_free();
      return QuantizedPart::store(sum, form, at, piece());
    }
#pragma unroll 1
    for (uint32_t i = 1; i < num_rows; ++i) {
      if (2 * num_free >= plan.num_parts) load_into_free();
      take_part(packs);
      sum.add(packs);
    }
    load_into_free();
    QuantizedPart::store(sum, form, at, piece());
  }

  EP_DEVICE void make_sum(const ListedSum& sum) {
#pragma unroll 1
    for (uint32_t begin = 0; begin < plan.row_bytes; begin += plan.piece_bytes) {
      const uint32_t rest = plan.row_bytes - begin;
      const uint32_t num_elements = (rest < plan.piece_bytes ? rest : plan.piece_bytes) / sizeof(uint16_t);
      // All but the last piece have left their stages. The lanes meet when a part is added up, before they write the next one.
      if (leads()) dev::bulk_wait_read<kHtSumStages - 1>();
#pragma unroll 1
      for (uint32_t at = 0; at < num_elements; at += QuantizedPart::kElements) {
        make_part(sum.num_rows, QuantizedRow{num_elements}, at);
      }
      dev::sync_warp();  // all of the piece is written
      if (leads()) store(sum.to + quantized_bytes(begin / sizeof(uint16_t)), quantized_bytes(num_elements));
      ++num_stores;
    }
  }
  EP_DEVICE void store(unsigned char* to, uint32_t bytes) {
    dev::fence_proxy_async();
    dev::bulk_store(to, piece(), bytes);
    dev::bulk_commit();
    if (num_stores < kStoresBehind) return;
    dev::bulk_wait<kStoresBehind>();
    flags.finish((num_stores + 1 - kStoresBehind) / plan.num_pieces);
  }
};

}  // namespace nccl_ep::ht
