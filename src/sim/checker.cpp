// SPDX-License-Identifier: Apache-2.0
#include "sim/checker.hpp"

#include <algorithm>
#include <stdexcept>

#include "sim/agents.hpp"
#include "sim/races.hpp"
#include "sim/report.hpp"
#include "sim/units.hpp"
#include "sim/words.hpp"

namespace nccl_ep::sim::check {

namespace {

constexpr size_t kMbarrierBytes = 8;

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

Kind atomic(Scope scope) {
  return static_cast<Kind>(static_cast<uint8_t>(Kind::atomic_block) + static_cast<uint8_t>(scope));
}

bool acquires(Order order) { return order == Order::acquire || order == Order::acq_rel; }
bool releases(Order order) { return order == Order::release || order == Order::acq_rel; }

// In no block of a rank.
Place nowhere(uint32_t rank) { return {rank, Clock::kMaxSlots}; }

// The multiple of a warp's slots that a block takes.
uint32_t round_to_warps(uint32_t num_threads) {
  return (num_threads + Clock::kLeafSlots - 1) / Clock::kLeafSlots * Clock::kLeafSlots;
}

}  // namespace

void Knowledge::learn(const Knowledge& other) {
  ordered = Clock::join(ordered, other.ordered);
  async_ready = Clock::join(async_ready, other.async_ready);
}

void Word::add(const Message& message, ClockJoiner& joiner) {
  for (Message& old : messages) {
    const bool same_authors = old.scope == message.scope && old.author.rank == message.author.rank &&
                              old.author.block == message.author.block;
    if (!same_authors) continue;
    old.knowledge.ordered = joiner.join(old.knowledge.ordered, message.knowledge.ordered);
    old.knowledge.async_ready = joiner.join(old.knowledge.async_ready, message.knowledge.async_ready);
    const bool news_knows_all = old.knowledge.ordered == message.knowledge.ordered &&
                                old.knowledge.async_ready == message.knowledge.async_ready;
    old.author_slot = message.author_slot;
    old.author_epoch = news_knows_all ? message.author_epoch : 0;
    return;
  }
  messages.push_back(message);
}

struct Checker::State {
  explicit State(DescribeAddress describe_address) : report_writer(names, std::move(describe_address)) {}

  Races races;
  Slots slots;
  Names names;
  ClockJoiner joiner;
  AddressMap<Word> words;
  AddressMap<Mbarrier> mbars;
  ReportWriter report_writer;

  void learn(Knowledge& learner, const Knowledge& news) {
    learner.ordered = joiner.join(learner.ordered, news.ordered);
    learner.async_ready = joiner.join(learner.async_ready, news.async_ready);
  }

  void learn(Agent& learner, const Message& message) {
    if (message.author_epoch != 0 && learner.did(message.author_slot, message.author_epoch)) return;
    if (same_block(learner.place, message.author)) return learn(learner.knowledge, message.knowledge);
    // Knowing what the author did when it published this means knowing all it knew.
    if (message.author_epoch != 0 && learner.knowledge.ordered.at(message.author_slot) >= message.author_epoch) return;
    learn_from_afar(learner, message.knowledge);
  }

  // What was made ready for another block's bulk copies is not for those of this one.
  void learn_from_afar(Agent& learner, const Knowledge& news) {
    learner.knowledge.ordered = joiner.join(learner.knowledge.ordered, news.ordered);
  }

  // All that the agent has done and learned. What it does next is not part of it.
  Knowledge publish(Agent& agent) {
    return {agent.knowledge.ordered.with(agent.slot, agent.epoch++), agent.knowledge.async_ready};
  }

  void access(const Agent& agent, const void* address, size_t bytes, bool writes, Kind kind, Pc pc) {
    races.access(agent, {number(address), bytes, writes, kind, false, pc, agent.epoch, agent.knowledge});
  }

  // What the load of a synchronising access finds at its address.
  void read_messages(Thread& thread, const Word& word, Order order, Scope scope) {
    for (const Message& message : word.messages) {
      if (!includes(message.scope, message.author, thread.place)) continue;
      if (!includes(scope, thread.place, message.author)) continue;
      if (acquires(order)) {
        learn(thread, message);
      } else {
        remember_for_fence(thread, message);
      }
    }
  }

  void remember_for_fence(Thread& thread, const Message& message) {
    for (Message& old : thread.unfenced_messages) {
      if (old.author.rank != message.author.rank || old.author.block != message.author.block) continue;
      if (old.author_epoch != 0 && old.author_slot == message.author_slot && old.author_epoch == message.author_epoch) {
        return;
      }
      learn(old.knowledge, message.knowledge);
      old.author_epoch = 0;
      return;
    }
    thread.unfenced_messages.push_back(message);
  }

  // What the store of a synchronising access leaves at its address.
  void add_messages(Thread& thread, Word& word, Order order, Scope scope) {
    if (releases(order)) {
      const Epoch epoch = thread.epoch;
      word.add({scope, thread.place, thread.slot, epoch, publish(thread)}, joiner);
      return;
    }
    for (int i = 0; i <= static_cast<int>(scope); ++i) {
      const Epoch epoch = thread.fence_epoch[i];
      const bool wider_fence_says_it_too = i < static_cast<int>(scope) && thread.fence_epoch[i + 1] == epoch;
      if (epoch == 0 || wider_fence_says_it_too) continue;
      word.add({static_cast<Scope>(i), thread.place, thread.slot, epoch, thread.fenced[i]}, joiner);
    }
  }

  // Slots are taken by somebody who knows what their last user did.
  Operation* begin(const Knowledge& issuer, Place place, const char* what, Names::Issuer name) {
    const SlotRange slot = slots.take(place, 1, issuer.ordered);
    auto* operation = new Operation;
    operation->slot = slot.first;
    operation->first_epoch = operation->epoch = slot.last_epoch + 1;
    operation->place = place;
    operation->knowledge = issuer;
    races.set_place(operation->slot, place);
    names.add(*operation, what, name);
    return operation;
  }

  void access(const Operation& operation, const void* address, size_t bytes, bool writes, Kind kind) {
    races.access(operation, {number(address), bytes, writes, kind, operation.proxy == Proxy::async, operation.pc,
                             writes ? operation.write_epoch() : operation.read_epoch(), operation.knowledge});
  }

  void learn(Knowledge& learner, const Operation& operation, Epoch epoch) {
    learner.ordered = learner.ordered.with(operation.slot, epoch);
  }
};

Checker::Checker(DescribeAddress describe) : state_(std::make_unique<State>(std::move(describe))) {}
Checker::~Checker() = default;

// --- Memory

void Checker::track(const void* begin, size_t bytes) { state_->races.shadow.add(number(begin), bytes); }

void Checker::forget(const void* begin, size_t bytes) {
  state_->races.shadow.clear(number(begin), bytes);
  state_->words.clear(number(begin), bytes);
  state_->mbars.clear(number(begin), bytes);
}

// --- Grids

Grid* Checker::begin_grid(const GridName& name, const Knowledge& stream) {
  const uint32_t slots_per_block = round_to_warps(name.num_threads);
  if (name.num_blocks > Clock::kMaxSlots / slots_per_block) throw std::length_error(too_many());
  const SlotRange slots = state_->slots.take(nowhere(name.rank), name.num_blocks * slots_per_block, stream.ordered);
  auto* grid = new Grid;
  grid->name = name;
  grid->slots_per_block = slots_per_block;
  grid->slots = slots;
  state_->names.add(*grid);

  grid->threads.resize(size_t{name.num_blocks} * name.num_threads);
  for (size_t i = 0; i < grid->threads.size(); ++i) {
    Thread& thread = grid->threads[i];
    const Slot block = grid->slots.first + static_cast<Slot>(i / name.num_threads) * grid->slots_per_block;
    thread.slot = block + static_cast<Slot>(i % name.num_threads);
    thread.first_epoch = thread.epoch = grid->slots.last_epoch + 1;
    thread.place = {name.rank, block};
    state_->races.set_place(thread.slot, thread.place);
    thread.knowledge = {stream.ordered, stream.ordered};  // a kernel starts with all proxies in step
  }
  return grid;
}

Thread& Checker::thread(Grid& grid, uint32_t block, uint32_t thread_in_block) {
  return grid.threads[size_t{block} * grid.name.num_threads + thread_in_block];
}

void Checker::end_grid(Grid* grid, Knowledge& stream) {
  Epoch last = grid->slots.last_epoch;
  for (const Thread& thread : grid->threads) {
    last = std::max(last, thread.epoch);
    stream.ordered = state_->joiner.join(stream.ordered, thread.knowledge.ordered);
  }
  // All slots end at the same epoch, so that knowing one of them tells whether the grid's end is known.
  Epoch epochs[Clock::kLeafSlots];
  std::fill(std::begin(epochs), std::end(epochs), last);
  for (Slot slot = 0; slot < grid->slots.count; slot += Clock::kLeafSlots) {
    stream.ordered = stream.ordered.with_leaf(grid->slots.first + slot, epochs);
  }
  stream.async_ready = stream.ordered;
  grid->slots.last_epoch = last;
  state_->slots.give_back(nowhere(grid->name.rank), grid->slots);
  delete grid;
}

// --- Accesses

void Checker::read(Thread& thread, const void* address, size_t bytes, Pc pc) {
  state_->access(thread, address, bytes, false, Kind::plain, pc);
}

void Checker::write(Thread& thread, const void* address, size_t bytes, Pc pc) {
  state_->access(thread, address, bytes, true, Kind::plain, pc);
}

void Checker::load(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc) {
  // First learn, then compare: what the load acquires orders it after the store it reads from.
  if (const Word* word = state_->words.find(number(address))) state_->read_messages(thread, *word, order, scope);
  state_->access(thread, address, bytes, false, atomic(scope), pc);
}

void Checker::store(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc) {
  state_->access(thread, address, bytes, true, atomic(scope), pc);
  Word& word = state_->words.at(number(address));
  word.messages.clear();
  state_->add_messages(thread, word, order, scope);
}

void Checker::update(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc) {
  Word& word = state_->words.at(number(address));
  state_->read_messages(thread, word, order, scope);
  state_->access(thread, address, bytes, true, atomic(scope), pc);
  state_->add_messages(thread, word, order, scope);
}

void Checker::read_unit(Thread& thread, const void* address, Pc pc) {
  state_->access(thread, address, kUnitBytes, false, Kind::unit, pc);
}

void Checker::write_unit(Thread& thread, const void* address, Pc pc) {
  state_->access(thread, address, kUnitBytes, true, Kind::unit, pc);
}

// --- Fences

void Checker::fence(Thread& thread, Scope scope) {
  std::erase_if(thread.unfenced_messages, [&](const Message& message) {
    if (!includes(scope, thread.place, message.author)) return false;
    state_->learn(thread, message);
    return true;
  });
  const Epoch epoch = thread.epoch;
  const Knowledge published = state_->publish(thread);
  for (int i = 0; i <= static_cast<int>(scope); ++i) {
    thread.fenced[i] = published;
    thread.fence_epoch[i] = epoch;
  }
}

void Checker::fence_proxy_async(Thread& thread) {
  thread.knowledge.async_ready = state_->publish(thread).ordered;
  fence_mbar_init(thread);
}

void Checker::fence_mbar_init(Thread& thread) {
  for (const uintptr_t address : thread.unfenced_mbars) {
    if (Mbarrier* mbar = state_->mbars.find(address)) mbar->init_fenced = true;
  }
  thread.unfenced_mbars.clear();
}

void Checker::meet(std::span<Thread* const> threads, const Knowledge& brought) {
  Knowledge all = brought;
  for (const Thread* thread : threads) state_->learn(all, thread->knowledge);
  for (size_t i = 0; i < threads.size();) {
    // One leaf of the tree at a time: the lanes of a warp come one after the other.
    const Slot leaf = threads[i]->slot / Clock::kLeafSlots * Clock::kLeafSlots;
    Epoch epochs[Clock::kLeafSlots] = {};
    for (; i < threads.size() && threads[i]->slot - leaf < Clock::kLeafSlots; ++i) {
      epochs[threads[i]->slot - leaf] = threads[i]->epoch++;
    }
    all.ordered = all.ordered.with_leaf(leaf, epochs);
  }
  for (Thread* thread : threads) thread->knowledge = all;
}

// --- mbarriers

void Checker::mbar_init(Thread& thread, const void* mbar, Pc pc) {
  state_->access(thread, mbar, kMbarrierBytes, true, Kind::plain, pc);
  state_->mbars.at(number(mbar)) = {};
  thread.unfenced_mbars.push_back(number(mbar));
}

void Checker::mbar_inval(Thread& thread, const void* mbar, Pc pc) {
  state_->access(thread, mbar, kMbarrierBytes, true, Kind::plain, pc);
  state_->mbars.clear(number(mbar), 1);
}

void Checker::mbar_arrive(Thread& thread, const void* mbar, Pc pc) {
  state_->access(thread, mbar, kMbarrierBytes, true, atomic(Scope::block), pc);
  state_->learn(state_->mbars.at(number(mbar)).arriving, state_->publish(thread));
}

void Checker::mbar_complete_tx(Operation& operation, const void* mbar) {
  state_->learn(state_->mbars.at(number(mbar)).arriving, operation, operation.write_epoch());
}

void Checker::mbar_complete_phase(const void* mbar) {
  Mbarrier& state = state_->mbars.at(number(mbar));
  state.completed = std::exchange(state.arriving, {});
}

void Checker::mbar_observe(Thread& thread, const void* mbar, Pc pc, bool phase_done) {
  // First compare, then learn: what a phase brings does not excuse looking before the mbarrier is initialised.
  state_->access(thread, mbar, kMbarrierBytes, false, atomic(Scope::block), pc);
  if (phase_done) state_->learn(thread.knowledge, state_->mbars.at(number(mbar)).completed);
}

// --- Operations

bool Checker::has_room_for_operation() const { return state_->slots.has_room(1); }

std::string Checker::no_room() { return too_many(); }

Operation* Checker::begin(Thread& issuer, const char* what, Proxy proxy, Pc pc) {
  const Names::Issuer name{issuer.place.rank, issuer.slot, issuer.epoch};
  Operation* operation = state_->begin(state_->publish(issuer), issuer.place, what, name);
  operation->proxy = proxy;
  operation->pc = pc;
  return operation;
}

Operation* Checker::begin(const Knowledge& stream, uint32_t rank, const char* what) {
  return state_->begin(stream, nowhere(rank), what, {rank, 0, 0});
}

void Checker::reads(Operation& operation, const void* address, size_t bytes) {
  state_->access(operation, address, bytes, false, Kind::plain);
}

void Checker::writes(Operation& operation, const void* address, size_t bytes) {
  state_->access(operation, address, bytes, true, Kind::plain);
}

void Checker::will_complete_on(Operation& operation, const void* mbar) {
  // mbarriers are initialised through ordinary stores; their own fence decides, not the one for data.
  state_->races.access(operation, {number(mbar), kMbarrierBytes, true, atomic(Scope::block), false, operation.pc,
                                   operation.write_epoch(), operation.knowledge});
  const Mbarrier* state = state_->mbars.find(number(mbar));
  if (state == nullptr || state->init_fenced) return;
  Access access;
  access.pc = operation.pc;
  access.slot = operation.slot;
  access.epoch = operation.write_epoch();
  state_->races.add({Reason::mbar_fence, number(mbar), {}, access, true, true});
}

void Checker::learn_reads(Thread& learner, const Operation& operation) {
  state_->learn(learner.knowledge, operation, operation.read_epoch());
}

void Checker::learn(Thread& learner, const Operation& operation) {
  state_->learn(learner.knowledge, operation, operation.write_epoch());
}

void Checker::learn_reads(Knowledge& learner, const Operation& operation) {
  state_->learn(learner, operation, operation.read_epoch());
}

void Checker::learn(Knowledge& learner, const Operation& operation) {
  state_->learn(learner, operation, operation.write_epoch());
}

void Checker::end(Operation* operation) {
  state_->slots.give_back(operation->place, {operation->slot, 1, operation->write_epoch()});
  delete operation;
}

Checker::Moment Checker::moment(const Thread& thread) const { return {thread.slot, thread.epoch}; }

bool Checker::knows(const Thread& thread, Moment moment) const {
  return thread.did(moment.slot, moment.epoch) || thread.knowledge.ordered.at(moment.slot) >= moment.epoch;
}

// --- Knowledge that travels by other means

Knowledge Checker::publish(Thread& thread) { return state_->publish(thread); }

void Checker::acquire(Thread& thread, const Knowledge& knowledge) { state_->learn_from_afar(thread, knowledge); }

void Checker::deliver(Operation& operation, const void* address, size_t bytes, const Knowledge& knowledge) {
  state_->access(operation, address, bytes, true, atomic(Scope::system));
  state_->words.at(number(address)).add({Scope::system, operation.place, operation.slot, 0, knowledge}, state_->joiner);
}

// --- Results

bool Checker::has_findings() const { return state_->report_writer.has_new(state_->races.findings()); }

const std::vector<Report>& Checker::reports() { return state_->report_writer.write(state_->races.findings()); }

}  // namespace nccl_ep::sim::check
