// SPDX-License-Identifier: Apache-2.0
// What threads wait for, in words.
#include <bit>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "sim/executor_state.hpp"
#include "sim/symbols.hpp"

namespace nccl_ep::sim {

namespace {

constexpr size_t kMaxLines = 48;

std::string name_of(const Warp& warp) {
  const Grid& grid = *warp.block->grid;
  return grid.kernel->name + " on rank " + std::to_string(grid.rank) + ", block " + std::to_string(warp.block->index) +
         ", warp " + std::to_string(warp.index);
}

// "lanes 0-3,7"
std::string name_of_lanes(uint32_t lanes) {
  std::string text = std::popcount(lanes) == 1 ? "lane " : "lanes ";
  const char* separator = "";
  for (uint32_t lane = 0; lane < kWarpSize; ++lane) {
    if ((lanes >> lane & 1) == 0) continue;
    const uint32_t length = static_cast<uint32_t>(std::countr_one(lanes >> lane));
    text += separator + std::to_string(lane);
    if (length > 1) text += "-" + std::to_string(lane + length - 1);
    separator = ",";
    lane += length;
  }
  return text;
}

// "polls rank 1 memory + 0x40 (value 0) and the line at rank 1 memory + 0x80"
std::string parked_wait_of(const Memory& memory, const GpuThread& thread) {
  std::string text;
  for (const PolledPlace& place : thread.polling.places) {
    if (place.sleeper == nullptr || place.address == 0) continue;
    text += (text.empty() ? "" : " and ") + std::string(place.what) + " " + memory.describe(place.address);
    if (place.bytes <= 8) text += " (value " + std::to_string(place.value) + ")";
  }
  return text.empty() ? "waits for time to pass" : text;
}

std::string wait_of(const Memory& memory, const GpuThread& thread) {
  if (thread.is_runnable()) return "runs, and never waits in a way that the simulator knows";
  const Wait& wait = thread.wait;
  const bool is_parked =
      thread.polling.sleeper.lanes != 0 || (thread.warp->polling.sleeper.lanes & thread.lane_bit()) != 0;
  if (is_parked) return parked_wait_of(memory, thread);
  return "waits for " + std::string(wait.what) + (wait.number != 0 ? " " + std::to_string(wait.number) : "");
}

// Lanes of a warp that wait in the same way: one line.
struct WaitingLanes {
  const Warp* warp;
  std::string wait;
  check::Pc pc;
  uint32_t lanes;
};

void collect(const Memory& memory, const Warp& warp, std::vector<WaitingLanes>& all) {
  const size_t first = all.size();
  for (const GpuThread& thread : warp.threads) {
    if (thread.done) continue;
    const std::string wait = wait_of(memory, thread);
    size_t i = first;
    while (i < all.size() && (all[i].wait != wait || all[i].pc != thread.wait.pc)) ++i;
    if (i == all.size()) all.push_back({&warp, wait, thread.wait.pc, 0});
    all[i].lanes |= thread.lane_bit();
  }
}

}  // namespace

std::string name_of(const GpuThread& thread) {
  return name_of(*thread.warp) + ", lane " + std::to_string(thread.lane());
}

std::string place_of(check::Pc pc) { return pc != 0 ? ", at " + find_source_lines({pc}).at(pc).text() : ""; }

std::string ExecutorState::describe_deadlock() const {
  std::vector<WaitingLanes> all;
  for (const auto& grid : grids) {
    for (const auto& block : grid->blocks) {
      for (uint32_t i = 0; i < block->num_warps; ++i) collect(memory, block->warps[i], all);
    }
  }
  std::vector<uintptr_t> pcs;
  for (size_t i = 0; i < all.size() && i < kMaxLines; ++i) {
    if (all[i].pc != 0) pcs.push_back(all[i].pc);
  }
  const std::map<uintptr_t, SourceLine> lines = find_source_lines(pcs);

  std::string text = "deadlock: the threads wait, and nothing is under way that would end that";
  for (size_t i = 0; i < all.size() && i < kMaxLines; ++i) {
    text += "\n  " + name_of(*all[i].warp) + ", " + name_of_lanes(all[i].lanes) + ": " + all[i].wait;
    if (all[i].pc != 0) text += ", at " + lines.at(all[i].pc).text();
  }
  if (all.size() > kMaxLines) text += "\n  and " + std::to_string(all.size() - kMaxLines) + " more";
  for (const auto& grid : grids) {
    const size_t num_unstarted = grid->num_blocks - grid->blocks.size();
    if (num_unstarted == 0) continue;
    text += "\n  " + grid->kernel->name + " on rank " + std::to_string(grid->rank) + ": " +
            std::to_string(num_unstarted) + " of " + std::to_string(grid->num_blocks) +
            " blocks wait for room on an SM";
  }
  return text;
}

}  // namespace nccl_ep::sim
