// SPDX-License-Identifier: Apache-2.0
// mbarriers and bulk copies. A copy reads and writes some time after it was issued, whenever its engine gets to it.
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "sim/access_checks.hpp"
#include "sim/caller.hpp"
#include "sim/executor_state.hpp"

namespace nccl_ep::sim {

namespace {

using dev::Mbarrier;

// What the word of an initialised mbarrier holds: this, and its number in the block. Pollers notice a new phase by the
// bits in between.
constexpr uint64_t kMbarrierMark = 0x6d62617200000000;
constexpr uint32_t kMbarrierPhaseBit = 24;
constexpr uint64_t kMbarrierPhaseMask = uint64_t{0xff} << kMbarrierPhaseBit;
constexpr uint32_t kMaxArrivals = (1u << 20) - 1;
constexpr int64_t kMaxPendingBytes = (1 << 20) - 1;

std::string describe(const void* p) { return running_state->memory.describe(reinterpret_cast<uintptr_t>(p)); }

bool is_own_shared(const ExecutorState& sim, const void* p, size_t bytes) {
  const auto offset = static_cast<uint64_t>(static_cast<const std::byte*>(p) - sim.current->warp->block->shared);
  return offset < sim.memory.shared_slot_bytes() && bytes <= sim.memory.shared_slot_bytes() - offset;
}

MbarrierState* find_mbarrier(Block& block, const Mbarrier* bar) {
  const uint64_t number = (bar->state & ~kMbarrierPhaseMask) - kMbarrierMark;
  if (number >= block.mbarriers.size() || block.mbarriers[number].address != bar) return nullptr;
  return &block.mbarriers[number];
}

void check_mbarrier_address(ExecutorState& sim, const Mbarrier* bar, check::Pc pc) {
  if (reinterpret_cast<uintptr_t>(bar) % alignof(Mbarrier) == 0 && is_own_shared(sim, bar, sizeof(*bar))) return;
  sim.fail_thread(pc, [=] {
    return "an mbarrier at " + describe(bar) + ", expected a multiple of 8 in the block's shared memory";
  });
}

MbarrierState& require_mbarrier(ExecutorState& sim, const Mbarrier* bar, check::Pc pc) {
  check_mbarrier_address(sim, bar, pc);
  MbarrierState* state = find_mbarrier(*sim.current->warp->block, bar);
  if (state == nullptr) {
    sim.fail_thread(pc, [=] { return "there is no initialised mbarrier at " + describe(bar); });
  }
  return *state;
}

void complete_phase_if_due(ExecutorState& sim, MbarrierState& state) {
  if (state.num_pending != 0 || state.pending_bytes != 0) return;
  ++state.phase;
  state.address->state =
      (state.address->state & ~kMbarrierPhaseMask) | (state.phase << kMbarrierPhaseBit & kMbarrierPhaseMask);
  state.num_pending = state.num_arrivals;
  if (sim.checker != nullptr) sim.checker->mbar_complete_phase(state.address);
  sim.notify(state.address, sizeof(Mbarrier));
}

bool test(ExecutorState& sim, Mbarrier* bar, uint32_t parity, check::Pc pc) {
  sim.step();
  const MbarrierState& state = require_mbarrier(sim, bar, pc);
  if (parity > 1) {
    sim.fail_thread(pc,
                    [=] { return "a test of an mbarrier's phase " + std::to_string(parity) + ", expected 0 or 1"; });
  }
  const bool done = state.phase % 2 != parity;
  if (sim.checker != nullptr) sim.checker->mbar_observe(*sim.current->checked, bar, pc, done);
  if (!done) sim.look(bar, sizeof(*bar), "waits for the mbarrier at", pc);
  return done;
}

// ---- bulk copies

void check_bulk_copy(ExecutorState& sim, const void* shared, const void* global, uint32_t bytes, check::Pc pc) {
  const auto misaligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 != 0; };
  if (misaligned(shared) || misaligned(global) || bytes % 16 != 0 || bytes == 0) {
    sim.fail_thread(pc, [=] {
      return "a bulk copy of " + std::to_string(bytes) + " bytes between " + describe(shared) + " and " +
             describe(global) + ", expected multiples of 16";
    });
  }
  if (!is_own_shared(sim, shared, bytes)) {
    sim.fail_thread(pc,
                    [=] { return "a bulk copy with " + describe(shared) + ", expected the block's shared memory"; });
  }
  if (sim.memory.is_shared(global)) {
    sim.fail_thread(pc, [=] { return "a bulk copy with " + describe(global) + ", expected global memory"; });
  }
  check_memory(sim, global, bytes, pc);
}

check::Operation* begin_operation(ExecutorState& sim, const char* what, void* dst, const void* src, uint32_t bytes,
                                  check::Pc pc) {
  if (sim.checker == nullptr) return nullptr;
  sim.require_room_for_operation(pc);
  check::Operation* operation = sim.checker->begin(*sim.current->checked, what, check::Checker::Proxy::async, pc);
  sim.checker->reads(*operation, src, bytes);
  sim.checker->writes(*operation, dst, bytes);
  return operation;
}

struct BulkLoad {
  Block* block;
  void* dst;
  const void* src;
  uint32_t bytes;
  Mbarrier* bar;
  check::Operation* operation;
};

void finish_load(ExecutorState& sim, const BulkLoad& load) {
  std::memcpy(load.dst, load.src, load.bytes);
  --load.block->bulk_loads_in_flight;
  MbarrierState* state = find_mbarrier(*load.block, load.bar);
  if (state == nullptr) {
    return sim.fail(NCCL_EP_SIM_FAILURE_FAULT,
                    "a bulk load completes on " + describe(load.bar) + ", which is no mbarrier any more");
  }
  state->pending_bytes -= load.bytes;
  if (sim.checker != nullptr) {
    sim.checker->mbar_complete_tx(*load.operation, load.bar);
    sim.checker->end(load.operation);
  }
  complete_phase_if_due(sim, *state);
}

struct BulkStore {
  GpuThread* thread;
  BulkGroup* group;
  void* dst;
  const void* src;
  uint32_t bytes;
};

void wake_if_awaiting_bulk(ExecutorState& sim, GpuThread& thread) {
  if (std::exchange(thread.awaits_bulk, false)) sim.make_runnable(thread);
}

void finish_store(ExecutorState& sim, const BulkStore& store, const std::vector<std::byte>& data) {
  sim.stores.perform_at(store.dst, store.bytes);
  std::memcpy(store.dst, data.data(), store.bytes);
  sim.notify(store.dst, store.bytes);
  --store.group->num_unfinished;
  wake_if_awaiting_bulk(sim, *store.thread);
  Grid& grid = *store.thread->warp->block->grid;
  --grid.bulk_stores_in_flight;
  sim.end_grid_if_over(grid);
}

void read_store(ExecutorState& sim, const BulkStore& store) {
  const auto* begin = static_cast<const std::byte*>(store.src);
  std::vector<std::byte> data(begin, begin + store.bytes);
  --store.group->num_unread;
  wake_if_awaiting_bulk(sim, *store.thread);
  sim.after(1 + sim.random.below(sim.delays.bulk_store_write),
            [&sim, store, data = std::move(data)] { finish_store(sim, store, data); });
}

// The groups of the thread but the `num_newest` committed last. An open one is not committed.
template <class Visit>
void for_each_older_group(GpuThread& thread, uint32_t num_newest, Visit visit) {
  size_t num_groups = thread.bulk_groups.size() - (thread.bulk_group_open ? 1 : 0);
  auto group = thread.bulk_groups.begin();
  for (; num_groups > num_newest; --num_groups) visit(*group++);
}

template <class Outstanding>
void await_groups(ExecutorState& sim, uint32_t num_newest, Outstanding outstanding, check::Pc pc) {
  GpuThread& thread = *sim.current;
  const auto all_done = [&] {
    bool done = true;
    for_each_older_group(thread, num_newest, [&](const BulkGroup& group) { done &= outstanding(group) == 0; });
    return done;
  };
  while (!all_done()) {
    thread.awaits_bulk = true;
    sim.wait({"its bulk stores", 0, pc});
  }
}

}  // namespace

namespace device {

void mbar_init(Mbarrier* bar, uint32_t arrivals) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.maybe_step();
  check_mbarrier_address(sim, bar, pc);
  Block& block = *sim.current->warp->block;
  if (find_mbarrier(block, bar) != nullptr) {
    sim.fail_thread(pc, [=] { return "the mbarrier at " + describe(bar) + " is initialised already"; });
  }
  if (arrivals == 0 || arrivals > kMaxArrivals) {
    sim.fail_thread(pc, [=] {
      return "an mbarrier of " + std::to_string(arrivals) + " arrivals, expected 1 to " + std::to_string(kMaxArrivals);
    });
  }
  if (sim.checker != nullptr) sim.checker->mbar_init(*sim.current->checked, bar, pc);
  bar->state = kMbarrierMark + block.mbarriers.size();
  block.mbarriers.push_back({bar, arrivals, arrivals, 0, 0});
}

void mbar_inval(Mbarrier* bar) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.maybe_step();
  require_mbarrier(sim, bar, pc).address = nullptr;
  if (sim.checker != nullptr) sim.checker->mbar_inval(*sim.current->checked, bar, pc);
  bar->state = 0;
}

void mbar_arrive(Mbarrier* bar, uint32_t expected_bytes) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  MbarrierState& state = require_mbarrier(sim, bar, pc);
  if (state.num_pending == 0) {
    sim.fail_thread(pc, [&] {
      return "more than " + std::to_string(state.num_arrivals) + " arrivals in a phase of the mbarrier at " +
             describe(bar);
    });
  }
  state.pending_bytes += expected_bytes;
  if (state.pending_bytes > kMaxPendingBytes) {
    sim.fail_thread(pc, [&] {
      return "the mbarrier at " + describe(bar) + " is to expect " + std::to_string(state.pending_bytes) +
             " bytes at a time, expected at most " + std::to_string(kMaxPendingBytes);
    });
  }
  sim.publish_stores(dev::Scope::block);
  if (sim.checker != nullptr) sim.checker->mbar_arrive(*sim.current->checked, bar, pc);
  --state.num_pending;
  sim.made_progress();
  complete_phase_if_due(sim, state);
}

bool mbar_test(Mbarrier* bar, uint32_t parity) { return test(*running_state, bar, parity, EP_CALLER); }

void mbar_wait(Mbarrier* bar, uint32_t parity) {
  const check::Pc pc = EP_CALLER;
  while (!test(*running_state, bar, parity, pc)) {
  }
}

void fence_mbar_init() {
  ExecutorState& sim = *running_state;
  if (sim.checker != nullptr) sim.checker->fence_mbar_init(*sim.current->checked);
}

void fence_proxy_async() {
  ExecutorState& sim = *running_state;
  if (sim.checker != nullptr) sim.checker->fence_proxy_async(*sim.current->checked);
}

void bulk_load(void* shared_dst, const void* global_src, uint32_t bytes, Mbarrier* bar) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.maybe_step();
  check_bulk_copy(sim, shared_dst, global_src, bytes, pc);
  require_mbarrier(sim, bar, pc);
  Block& block = *sim.current->warp->block;
  const BulkLoad load{&block, shared_dst, global_src,
                      bytes,  bar,        begin_operation(sim, "bulk load", shared_dst, global_src, bytes, pc)};
  if (sim.checker != nullptr) sim.checker->will_complete_on(*load.operation, bar);
  const uint32_t rank = block.grid->rank, owner = sim.memory.owner(global_src);
  if (owner != rank && owner != Memory::kNobody) sim.counters.count_load(rank, owner, bytes);
  ++block.bulk_loads_in_flight;
  sim.made_progress();
  sim.after(1 + sim.random.below(sim.delays.bulk_load), [&sim, load] { finish_load(sim, load); });
}

void bulk_store(void* global_dst, const void* shared_src, uint32_t bytes) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.maybe_step();
  check_bulk_copy(sim, shared_src, global_dst, bytes, pc);
  GpuThread& thread = *sim.current;
  Grid& grid = *thread.warp->block->grid;
  if (!std::exchange(thread.bulk_group_open, true)) thread.bulk_groups.emplace_back();
  BulkGroup& group = thread.bulk_groups.back();
  if (check::Operation* operation = begin_operation(sim, "bulk store", global_dst, shared_src, bytes, pc)) {
    group.operations.push_back(operation);
  }
  const uint32_t owner = sim.memory.owner(global_dst);
  if (owner != grid.rank && owner != Memory::kNobody) sim.counters.count_bulk_copy(grid.rank, owner, bytes);
  ++group.num_unread;
  ++group.num_unfinished;
  ++grid.bulk_stores_in_flight;
  sim.made_progress();
  const BulkStore store{&thread, &group, global_dst, shared_src, bytes};
  sim.after(1 + sim.random.below(sim.delays.bulk_store_read), [&sim, store] { read_store(sim, store); });
}

void bulk_commit() {
  GpuThread& thread = *running_state->current;
  if (!std::exchange(thread.bulk_group_open, false)) thread.bulk_groups.emplace_back();
}

void bulk_wait(uint32_t max_unfinished) {
  ExecutorState& sim = *running_state;
  await_groups(sim, max_unfinished, [](const BulkGroup& group) { return group.num_unfinished; }, EP_CALLER);
  GpuThread& thread = *sim.current;
  size_t num_done = 0;
  for_each_older_group(thread, max_unfinished, [&](BulkGroup& group) {
    ++num_done;
    for (check::Operation* operation : group.operations) {
      sim.checker->learn(*thread.checked, *operation);
      sim.checker->end(operation);
    }
  });
  for (; num_done > 0; --num_done) thread.bulk_groups.pop_front();
}

void bulk_wait_read(uint32_t max_unread) {
  ExecutorState& sim = *running_state;
  await_groups(sim, max_unread, [](const BulkGroup& group) { return group.num_unread; }, EP_CALLER);
  GpuThread& thread = *sim.current;
  for_each_older_group(thread, max_unread, [&](BulkGroup& group) {
    if (std::exchange(group.reads_learned, true)) return;
    for (const check::Operation* operation : group.operations) sim.checker->learn_reads(*thread.checked, *operation);
  });
}

}  // namespace device
}  // namespace nccl_ep::sim
