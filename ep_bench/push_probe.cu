// SPDX-License-Identifier: Apache-2.0
// How fast rows can be pushed to all peers at once: the ceiling for dispatch and combine.
//
// Every block serves one peer, and all blocks push as many rows. Each warp moves rows of its own with one lane: a bulk
// copy from the source into shared memory, a bulk copy from there to the peer. kStages rows are on their way at a time:
// one arriving, the others leaving.
#include "device/device.hpp"

namespace dev = nccl_ep::dev;

constexpr uint32_t kMaxPeers = 63;
constexpr uint32_t kStages = 3;
constexpr uint32_t kWarps = 2;

struct PushArgs {
  uint64_t source;
  uint32_t rows_per_block;
  uint32_t row_bytes;
  uint32_t num_peers;
  uint32_t unused;
  uint64_t targets[kMaxPeers];
};

extern "C" __global__ void push_rows(const PushArgs args) {
  EP_SHARED(dev::Mbarrier, arrived, [kWarps][kStages]);
  EP_DYNAMIC_SHARED(rows);
  if (dev::lane_idx() != 0) return;

  const uint32_t warp = dev::warp_idx();
  unsigned char* const stages = rows + size_t{warp} * kStages * args.row_bytes;
  for (uint32_t stage = 0; stage < kStages; ++stage) dev::mbar_init(&arrived[warp][stage], 1);
  dev::fence_mbar_init();

  const auto* source = reinterpret_cast<const unsigned char*>(args.source);
  const uint32_t peer = dev::block_idx() % args.num_peers;
  auto* target = reinterpret_cast<unsigned char*>(args.targets[peer]);
  const uint32_t blocks_of_peer = (dev::num_blocks() - peer + args.num_peers - 1) / args.num_peers;
  const uint32_t num_rows = blocks_of_peer * args.rows_per_block;
  const uint32_t stride = blocks_of_peer * kWarps;
  const uint32_t first = dev::block_idx() / args.num_peers * kWarps + warp;
  const uint32_t count = first < num_rows ? (num_rows - first + stride - 1) / stride : 0;

  const auto load = [&](uint32_t i) {
    dev::Mbarrier* const bar = &arrived[warp][i % kStages];
    dev::mbar_arrive_expect_tx(bar, args.row_bytes);
    dev::bulk_load(stages + size_t{i % kStages} * args.row_bytes, source + size_t{first + i * stride} * args.row_bytes,
                   args.row_bytes, bar);
  };

  if (count != 0) load(0);
  for (uint32_t i = 0; i < count; ++i) {
    if (i + 1 < count) {
      dev::bulk_wait_read<kStages - 2>();  // the row that had this stage before has left
      load(i + 1);
    }
    dev::mbar_wait(&arrived[warp][i % kStages], i / kStages % 2);
    dev::bulk_store(target + size_t{first + i * stride} * args.row_bytes, stages + size_t{i % kStages} * args.row_bytes,
                    args.row_bytes);
    dev::bulk_commit();
  }
  dev::bulk_wait<0>();
}
