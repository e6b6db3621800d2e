// SPDX-License-Identifier: Apache-2.0
// Lines: what the lanes bring, and what happens when all have come.
#include <array>
#include <cstring>

#include "sim/access_checks.hpp"
#include "sim/caller.hpp"
#include "sim/meetings.hpp"

namespace nccl_ep::sim {

namespace {

std::byte* part_of(const WarpMeeting& meeting, uint32_t lane) {
  return reinterpret_cast<std::byte*>(static_cast<uintptr_t>(meeting.value[lane]));
}

bool is_active(const WarpMeeting& meeting, uint32_t lane) {
  return (meeting.arrived >> lane & 1) != 0 && meeting.argument[lane] != 0;
}

// "lane 3, which accesses rank 1 memory + 0x80"
std::string describe_lane(const ExecutorState& sim, const WarpMeeting& meeting, uint32_t lane) {
  const std::string name = "lane " + std::to_string(lane) + ", which ";
  if ((meeting.arrived >> lane & 1) == 0) return name + "has exited";
  if (!is_active(meeting, lane)) return name + "is inactive";
  return name + "accesses " + sim.memory.describe(meeting.value[lane]);
}

// Each lane's part is the right one of some line.
void check_agreement(ExecutorState& sim, const Warp& warp, uint32_t first_lane) {
  const WarpMeeting& meeting = warp.meeting;
  for (uint32_t lane = first_lane + 1; lane < first_lane + kUnitsPerLine; ++lane) {
    const bool agrees = is_active(meeting, first_lane) == is_active(meeting, lane) &&
                        (!is_active(meeting, lane) || part_of(meeting, lane) - part_of(meeting, first_lane) ==
                                                          kUnitBytes * static_cast<ptrdiff_t>(lane - first_lane));
    if (agrees) continue;
    const uint32_t arrived = (meeting.arrived >> lane & 1) != 0 ? lane : first_lane;
    sim.fail_thread(warp.threads[arrived].wait.pc, [&] {
      return "lanes " + std::to_string(first_lane) + " to " + std::to_string(first_lane + kUnitsPerLine - 1) +
             " of a warp access one line or nothing, but " + describe_lane(sim, meeting, first_lane) +
             ", does not agree with " + describe_lane(sim, meeting, lane);
    });
  }
}

uint32_t peer_of(const ExecutorState& sim, const Warp& warp, const void* line) {
  const uint32_t owner = sim.memory.owner(line);
  return owner == warp.block->grid->rank ? Memory::kNobody : owner;
}

void load(ExecutorState& sim, Warp& warp, std::byte* line, uint32_t first_lane) {
  if (peer_of(sim, warp, line) != Memory::kNobody) sim.stores.perform_at(line, kLineBytes);
  for (uint32_t i = 0; i < kUnitsPerLine; ++i) {
    GpuThread& thread = warp.threads[first_lane + i];
    std::byte* part = line + i * kUnitBytes;
    if (sim.checker != nullptr) sim.checker->read_unit(*thread.checked, part, thread.wait.pc);
    std::memcpy(&warp.meeting.unit[first_lane + i], part, kUnitBytes);
    const Polling::Reading reading = thread.polling.note(line, kLineBytes, "polls the line at", warp.polling);
    if (reading == Polling::Reading::changed) ++sim.progress;
  }
}

void store(ExecutorState& sim, Warp& warp, std::byte* line, uint32_t first_lane) {
  const uint32_t peer = peer_of(sim, warp, line);
  std::array<StoreBuffer::LinePart, kUnitsPerLine> parts;
  for (uint32_t i = 0; i < kUnitsPerLine; ++i) {
    GpuThread& thread = warp.threads[first_lane + i];
    parts[i] = {&thread.stores, &warp.meeting.unit[first_lane + i]};
    if (sim.checker != nullptr) sim.checker->write_unit(*thread.checked, line + i * kUnitBytes, thread.wait.pc);
    thread.polling.forget();
  }
  warp.polling.note_news();
  ++sim.progress;
  if (peer != Memory::kNobody) sim.counters.count_store(warp.block->grid->rank, peer, kLineBytes);
  if (peer != Memory::kNobody && sim.config.stores != NCCL_EP_SIM_STORES_DIRECT) {
    sim.stores.add_line(line, parts);
  } else {
    std::memcpy(line, &warp.meeting.unit[first_lane], kLineBytes);
    sim.notify(line, kLineBytes);
  }
}

// The parts of a line are those of its lanes in their order.
void check_part(ExecutorState& sim, const void* part, check::Pc pc) {
  check_access(sim, part, kUnitBytes, pc);
  check_scope(sim, part, dev::Scope::system, pc);
  const uint32_t expected = sim.current->lane() % kUnitsPerLine * kUnitBytes;
  const auto address = reinterpret_cast<uintptr_t>(part);
  if (address % kLineBytes == expected) return;
  sim.fail_thread(pc, [=, &sim] {
    return "an access to the line with " + sim.memory.describe(address) + ", expected a multiple of " +
           std::to_string(kLineBytes) + " plus " + std::to_string(expected);
  });
}

device::Bits access(device::Meeting what, const void* part, device::Bits unit, bool active, check::Pc pc) {
  ExecutorState& sim = *running_state;
  const uint32_t lane = sim.current->lane();
  if (active) check_part(sim, part, pc);
  sim.current->warp->meeting.unit[lane] = unit;
  return meet(sim, what, reinterpret_cast<uintptr_t>(part), active ? 1 : 0, pc).unit[lane];
}

}  // namespace

void access_lines(ExecutorState& sim, Warp& warp) {
  for (uint32_t lane = 0; lane < kWarpSize; lane += kUnitsPerLine) {
    check_agreement(sim, warp, lane);
    if (!is_active(warp.meeting, lane)) continue;
    std::byte* line = part_of(warp.meeting, lane);
    if (warp.meeting.what == device::Meeting::load_line) {
      load(sim, warp, line, lane);
    } else {
      store(sim, warp, line, lane);
    }
  }
}

namespace device {

Bits load_line(const void* part) { return access(Meeting::load_line, part, {0, 0}, true, EP_CALLER); }

void store_line(void* part, Bits unit, bool active) { access(Meeting::store_line, part, unit, active, EP_CALLER); }

}  // namespace device
}  // namespace nccl_ep::sim
