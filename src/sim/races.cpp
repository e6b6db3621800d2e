// SPDX-License-Identifier: Apache-2.0
#include "sim/races.hpp"

#include <algorithm>

namespace nccl_ep::sim::check {

namespace {

bool is_atomic(Kind kind) { return kind >= Kind::atomic_block; }

Scope scope_of(Kind kind) {
  return static_cast<Scope>(static_cast<uint8_t>(kind) - static_cast<uint8_t>(Kind::atomic_block));
}

// The bytes of the cell at `cell_address` that lie in [address, address + bytes).
uint64_t bytes_in_cell(uintptr_t cell_address, uintptr_t address, size_t bytes) {
  const uintptr_t end = address + bytes;
  uint64_t mask = 0xf;
  if (address > cell_address) mask &= 0xf << (address - cell_address);
  if (end < cell_address + Cell::kBytes) mask &= 0xf >> (cell_address + Cell::kBytes - end);
  return mask;
}

}  // namespace

void Races::set_place(Slot slot, Place place) {
  if (places_.size() <= slot) places_.resize(slot + 1);
  places_[slot] = place;
}

// `reason` stays as it is unless scopes decide.
bool Races::may_overlap(const Agent& agent, const Access& other, const Access& mine, Reason& reason) const {
  const Kind a = other.as_kind(), b = mine.as_kind();
  if (a == Kind::unit && b == Kind::unit) return false;
  if (is_atomic(a) && is_atomic(b)) {
    reason = Reason::scope;
    return !includes(scope_of(a), places_[other.slot], agent.place) ||
           !includes(scope_of(b), agent.place, places_[other.slot]);
  }
  return true;
}

bool Races::is_known(const Agent& agent, const Request& request, const Access& other, bool other_writes) const {
  if (agent.did(other.slot, other.epoch)) return true;
  const bool same_proxy = request.async && other.async && same_block(agent.place, places_[other.slot]);
  const bool needs_fence = request.async && other_writes && !same_proxy;
  return (needs_fence ? request.known.async_ready : request.known.ordered).at(other.slot) >= other.epoch;
}

bool Races::check_pair(const Agent& agent, const Request& request, const Access& other, bool other_writes,
                       const Access& mine, uintptr_t address) {
  if (is_known(agent, request, other, other_writes)) return true;
  Reason reason = Reason::unordered;
  if ((other.bytes_mask & mine.bytes_mask) == 0 || !may_overlap(agent, other, mine, reason)) return false;
  if (request.known.ordered.at(other.slot) >= other.epoch) reason = Reason::proxy_fence;
  add({reason, address, other, mine, other_writes, request.writes});
  return true;
}

void Races::remember_read(const Agent& agent, Cell& cell, const Access& mine, const Clock& known) {
  Access* place = &cell.reads[1];
  for (Access& read : cell.reads) {
    const bool mask_covered = (read.bytes_mask & ~mine.bytes_mask) == 0;
    if (read.epoch == 0 || (mask_covered && (agent.did(read.slot, read.epoch) || known.at(read.slot) >= read.epoch))) {
      place = &read;
      break;
    }
  }
  *place = mine;
}

void Races::access(const Agent& agent, const Request& request) {
  size_t bytes = request.bytes;
  Cell* cell = shadow.find(request.address, bytes);
  if (cell == nullptr) return;

  Access mine;
  mine.pc = request.pc & ((uint64_t{1} << 48) - 1);
  mine.kind = static_cast<uint64_t>(request.kind);
  mine.async = request.async;
  mine.slot = agent.slot;
  mine.epoch = request.epoch;

  // Neighbours were mostly written together, so what was found out about the last cell holds for the next.
  Slot ordered_slot = agent.slot;
  Epoch ordered_epoch = 0;
  const uintptr_t end = request.address + bytes;
  for (uintptr_t at = request.address & ~uintptr_t{Cell::kBytes - 1}; at < end; at += Cell::kBytes, ++cell) {
    mine.bytes_mask = bytes_in_cell(at, request.address, bytes);
    const Access& write = cell->write;
    const bool same_as_before = write.slot == ordered_slot && write.epoch == ordered_epoch;
    if (write.epoch != 0 && !same_as_before && check_pair(agent, request, write, true, mine, at)) {
      ordered_slot = write.slot;
      ordered_epoch = write.epoch;
    }
    if (!request.writes) {
      remember_read(agent, *cell, mine, request.known.ordered);
      continue;
    }
    for (Access& read : cell->reads) {
      if (read.epoch == 0) continue;
      check_pair(agent, request, read, false, mine, at);
      if ((read.bytes_mask & ~mine.bytes_mask) == 0) read = {};
    }
    cell->write = mine;
  }
}

void Races::add(const Finding& finding) {
  const Pair pair{finding.reason, finding.earlier.pc, finding.later.pc, finding.earlier_writes, finding.later_writes};
  const auto [entry, is_new] = index_.try_emplace(pair, findings_.size());
  if (is_new) {
    findings_.push_back(finding);
  } else {
    ++findings_[entry->second].num_repeats;
  }
}

}  // namespace nccl_ep::sim::check
