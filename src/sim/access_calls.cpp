// SPDX-License-Identifier: Apache-2.0
// Loads, stores, atomics and fences of kernels.
#include <cstring>

#include "sim/access_checks.hpp"
#include "sim/caller.hpp"

namespace nccl_ep::sim {

namespace {

using device::Bits;

check::Order checked(dev::Order order) { return static_cast<check::Order>(order); }
check::Scope checked(dev::Scope scope) { return static_cast<check::Scope>(scope); }

bool releases(dev::Order order) { return order == dev::Order::release || order == dev::Order::acq_rel; }
bool acquires(dev::Order order) { return order == dev::Order::acquire || order == dev::Order::acq_rel; }

Bits read(const void* p, uint32_t bytes) {
  Bits bits{0, 0};
  std::memcpy(&bits, p, bytes);
  return bits;
}

void count_store(ExecutorState& sim, uint32_t peer, uint32_t bytes) {
  if (peer != Memory::kNobody) sim.counters.count_store(sim.current->warp->block->grid->rank, peer, bytes);
}

inline Bits weak_load(const void* p, uint32_t bytes, check::Pc pc) {
  ExecutorState& sim = *running_state;
  sim.maybe_step();
  const uint32_t peer = check_access(sim, p, bytes, pc);
  if (peer != Memory::kNobody) {
    sim.counters.count_load(sim.current->warp->block->grid->rank, peer, bytes);
    sim.stores.perform_at(p, bytes);  // a thread sees its own stores
  }
  if (sim.checker != nullptr) sim.checker->read(*sim.current->checked, p, bytes, pc);
  return read(p, bytes);
}

uint64_t apply(device::Update what, uint64_t old, uint64_t value, uint64_t expected) {
  switch (what) {
    case device::Update::add: return old + value;
    case device::Update::bitwise_or: return old | value;
    case device::Update::exchange: return value;
    default: return old == expected ? value : old;
  }
}

std::string hex(const void* p) { return running_state->memory.describe(reinterpret_cast<uintptr_t>(p)); }

void check_shared(ExecutorState& sim, const void* p, check::Pc pc) {
  const Block& block = *sim.current->warp->block;
  const auto offset = static_cast<uint64_t>(static_cast<const std::byte*>(p) - block.shared);
  if (offset < sim.memory.shared_slot_bytes()) return;
  sim.fail_thread(pc, [=] { return "an access to the shared memory of another block: " + hex(p); });
}

[[noreturn]] void fail_host_access(ExecutorState& sim, const void* p, check::Pc pc) {
  const uint32_t rank = sim.current->warp->block->grid->rank;
  sim.fail_thread(
      pc, [=] { return "a bad access to " + hex(p) + ", expected device memory of rank " + std::to_string(rank); });
}

}  // namespace

void fail_misaligned(ExecutorState& sim, const void* p, uint32_t bytes, check::Pc pc) {
  sim.fail_thread(pc, [=] {
    return "an access of " + std::to_string(bytes) + " bytes to " + hex(p) + ", which is not aligned to them";
  });
}

void fail_unallocated(ExecutorState& sim, const void* p, size_t bytes, check::Pc pc) {
  sim.fail_thread(pc, [=] {
    return "an access of " + std::to_string(bytes) + " bytes to " + hex(p) + ", expected allocated memory";
  });
}

void check_elsewhere(ExecutorState& sim, const void* p, size_t bytes, check::Pc pc) {
  const GpuThread& thread = *sim.current;
  const Grid& grid = *thread.warp->block->grid;
  const auto lies_in = [p](const void* begin, size_t size) {
    return reinterpret_cast<uintptr_t>(p) - reinterpret_cast<uintptr_t>(begin) < size;
  };
  if (lies_in(&thread.identity, sizeof(thread.identity)) || lies_in(&device::identity, sizeof(device::identity)))
    return;
  if (lies_in(grid.args.data(), grid.args.size())) return;
  if (sim.memory.is_pinned(grid.rank, p, bytes) || sim.images.contain(reinterpret_cast<uintptr_t>(p))) return;
  fail_host_access(sim, p, pc);
}

void check_foreign_access(ExecutorState& sim, const void* p, size_t bytes, uint32_t owner, check::Pc pc) {
  const uint32_t rank = sim.current->warp->block->grid->rank;
  if (owner == Memory::kNobody) {
    if (sim.memory.is_shared(p)) return check_shared(sim, p, pc);
    if (sim.memory.is_pinned(rank, p, bytes)) return;
    fail_host_access(sim, p, pc);
  }
  if (!sim.topology.share_lsa_team(rank, owner)) {
    sim.fail_thread(pc, [=] {
      return "an access to " + hex(p) + " from rank " + std::to_string(rank) + ", which is not in its LSA team";
    });
  }
  if (!sim.memory.was_allocated(p, bytes)) fail_unallocated(sim, p, bytes, pc);
  if (!sim.memory.is_symmetric(p)) {
    sim.fail_thread(pc, [=] {
      return "an access to " + hex(p) + " from rank " + std::to_string(rank) + ", expected its own memory or a window";
    });
  }
}

void check_scope(ExecutorState& sim, const void* p, dev::Scope scope, check::Pc pc) {
  if (scope == dev::Scope::block || !sim.memory.is_shared(p)) return;
  sim.fail_thread(pc, [=] { return "an access to " + hex(p) + " at a scope beyond the block's"; });
}

void ExecutorState::publish_stores(dev::Scope scope) {
  if (stores.num_pending() == 0) return;
  Warp& warp = *current->warp;
  Block& block = *warp.block;
  StoreList& rank_stores = gpus[block.grid->rank].stores;
  stores.widen(current->stores, block.stores);
  stores.widen(warp.stores, block.stores);
  if (scope == dev::Scope::block) return;
  stores.widen(block.stores, rank_stores);
  if (scope == dev::Scope::system) stores.perform(rank_stores);
}

namespace device {

Bits load(const void* p, uint32_t bytes) { return weak_load(p, bytes, EP_CALLER); }

Bits load_constant(const void* p, uint32_t bytes) {
  ExecutorState& sim = *running_state;
  if (sim.memory.is_shared(p)) {
    sim.fail_thread(EP_CALLER, [=] { return "ld_nc reads global memory, not " + hex(p); });
  }
  return weak_load(p, bytes, EP_CALLER);
}

void store(void* p, Bits value, uint32_t bytes) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.maybe_step();
  sim.current->polling.idle_reads = 0;
  sim.current->warp->polling.note_news();
  ++sim.progress;
  const uint32_t peer = check_access(sim, p, bytes, pc);
  if (sim.checker != nullptr) sim.checker->write(*sim.current->checked, p, bytes, pc);
  count_store(sim, peer, bytes);
  if (peer != Memory::kNobody && sim.config.stores != NCCL_EP_SIM_STORES_DIRECT) {
    sim.stores.add(sim.current->stores, StoreBuffer::Kind::weak, p, &value, bytes);
  } else {
    std::memcpy(p, &value, bytes);
  }
}

uint64_t sync_load(const void* p, uint32_t bytes, dev::Order order, dev::Scope scope) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  if (check_access(sim, p, bytes, pc) != Memory::kNobody) sim.stores.perform_at(p, bytes);
  check_scope(sim, p, scope, pc);
  if (sim.checker != nullptr) {
    sim.checker->load(*sim.current->checked, p, bytes, checked(order), checked(scope), pc);
  }
  const uint64_t value = read(p, bytes).low;
  sim.look(p, bytes, "polls", pc);
  return value;
}

void sync_store(void* p, uint64_t value, uint32_t bytes, dev::Order order, dev::Scope scope) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  const uint32_t peer = check_access(sim, p, bytes, pc);
  check_scope(sim, p, scope, pc);
  if (releases(order)) sim.publish_stores(scope);
  sim.stores.perform_at(p, bytes);
  if (sim.checker != nullptr) {
    sim.checker->store(*sim.current->checked, p, bytes, checked(order), checked(scope), pc);
  }
  count_store(sim, peer, bytes);
  std::memcpy(p, &value, bytes);
  sim.made_progress();
  sim.notify(p, bytes);
}

uint64_t update(Update what, void* p, uint64_t value, uint64_t expected, uint32_t bytes, dev::Order order,
                dev::Scope scope) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  const uint32_t peer = check_access(sim, p, bytes, pc);
  check_scope(sim, p, scope, pc);
  if (releases(order)) sim.publish_stores(scope);
  sim.stores.perform_at(p, bytes);
  const Bits old = read(p, bytes);
  const bool takes_effect = what != Update::compare_and_swap || old.low == expected;
  if (sim.checker != nullptr) {
    check::Thread& thread = *sim.current->checked;
    if (takes_effect) {
      sim.checker->update(thread, p, bytes, checked(order), checked(scope), pc);
    } else {
      const dev::Order load_order = acquires(order) ? dev::Order::acquire : dev::Order::relaxed;
      sim.checker->load(thread, p, bytes, checked(load_order), checked(scope), pc);
    }
  }
  count_store(sim, peer, bytes);
  const uint64_t result = apply(what, old.low, value, expected);
  std::memcpy(p, &result, bytes);
  if (read(p, bytes).low != old.low) {
    sim.made_progress();
    sim.notify(p, bytes);
  } else if (value == 0 || what == Update::exchange || what == Update::compare_and_swap) {
    sim.look(p, bytes, "waits with an atomic at", pc);  // others, such as setting a bit that is set, are no waiting
  }
  return old.low;
}

Bits load_unit(const void* p) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  if (check_access(sim, p, sizeof(Unit), pc) != Memory::kNobody) sim.stores.perform_at(p, sizeof(Unit));
  check_scope(sim, p, dev::Scope::system, pc);
  if (sim.checker != nullptr) sim.checker->read_unit(*sim.current->checked, p, pc);
  const Bits unit = read(p, sizeof(Unit));
  sim.look(p, sizeof(Unit), "polls the unit at", pc);
  return unit;
}

void store_unit(void* p, Bits unit) {
  ExecutorState& sim = *running_state;
  const check::Pc pc = EP_CALLER;
  sim.step();
  const uint32_t peer = check_access(sim, p, sizeof(Unit), pc);
  check_scope(sim, p, dev::Scope::system, pc);
  if (sim.checker != nullptr) sim.checker->write_unit(*sim.current->checked, p, pc);
  count_store(sim, peer, sizeof(Unit));
  sim.made_progress();
  if (peer != Memory::kNobody && sim.config.stores != NCCL_EP_SIM_STORES_DIRECT) {
    sim.stores.add(sim.current->stores, StoreBuffer::Kind::unit, p, &unit, sizeof(Unit));
  } else {
    std::memcpy(p, &unit, sizeof(Unit));
    sim.notify(p, sizeof(Unit));
  }
}

void fence(dev::Scope scope) {
  ExecutorState& sim = *running_state;
  sim.step();
  sim.publish_stores(scope);
  if (sim.checker != nullptr) sim.checker->fence(*sim.current->checked, checked(scope));
}

uint64_t clock_ns() { return running_state->clock_ns(); }

void pause() {
  ExecutorState& sim = *running_state;
  sim.step();
  sim.look(nullptr, 0, "time to pass", EP_CALLER);
}

}  // namespace device
}  // namespace nccl_ep::sim
