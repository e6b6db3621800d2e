// SPDX-License-Identifier: Apache-2.0
#include "sim/gin.hpp"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "sim/cluster.hpp"

namespace nccl_ep::sim {

struct GinEngine::Operation {
  GinRequest request;
  const GinPort* port = nullptr;
  uint32_t context = 0;
  uint64_t number = 0;  // of the context's operations
  std::byte* dst = nullptr;
  const std::byte* src = nullptr;
  uint64_t* signal = nullptr;
  uint64_t* counter = nullptr;
  uint32_t num_unread = 0;  // pieces
  uint32_t num_unlanded = 0;
  std::set<uint64_t> awaited;  // earlier puts that a strong signal waits for, by their numbers
  bool has_signal_pending = false;
  bool is_flushed = false;
  check::Operation* checked = nullptr;
  check::Checker::Moment issued = {};
  check::Knowledge published;  // what the signal tells

  uint32_t rank() const { return port->rank; }
  bool is_put() const { return request.kind == GinRequest::Kind::put || request.kind == GinRequest::Kind::put_value; }
  bool is_get() const { return request.kind == GinRequest::Kind::get; }
  bool signals_window() const { return request.signal.signal.window != nullptr; }
};

// One connection of all ranks.
struct GinNetwork : std::enable_shared_from_this<GinNetwork> {
  // A put that has landed, and that no strong signal has covered yet.
  struct Landed {
    check::Checker::Moment issued;
    check::Knowledge knowledge;
  };
  struct Context {
    uint64_t* signals = nullptr;
    uint64_t* counters = nullptr;
    uint64_t* flushed = nullptr;
    uint64_t num_issued = 0;
    std::set<uint64_t> unflushed;  // numbers
    check::Knowledge flushed_knowledge;
    std::vector<GinEngine::OperationPtr> in_flight;  // puts that have not landed, strong signals that wait for them
    std::vector<check::Knowledge> covered;           // what strong signals have told each peer
    std::vector<std::vector<Landed>> landed;         // at each peer
  };

  GinNetwork(GinEngine* engine, const Cluster& cluster, const runtime::NetworkNeeds& needs)
      : num_contexts(cluster.config().num_gin_contexts),
        num_signals(needs.num_signals),
        num_counters(needs.num_counters),
        rank_stride(needs.reach == runtime::NetworkNeeds::Reach::rail ? cluster.topology().lsa_team_size : 1),
        num_open(cluster.topology().num_ranks()),
        is_open(num_open, true),
        contexts(size_t{num_open} * num_contexts) {
    for (uint32_t rank = 0; rank < num_open; ++rank) ports.push_back({engine, this, rank});
  }

  // Puts a rank's contexts into words of its memory, all zero.
  void place(uint32_t rank, uint64_t* words) {
    const uint32_t num_ranks = static_cast<uint32_t>(ports.size());
    std::memset(words, 0, words_per_rank() * sizeof(uint64_t));
    for (uint32_t i = 0; i < num_contexts; ++i, words += words_per_rank() / num_contexts) {
      Context& of_rank = context(rank, i);
      of_rank.signals = words;
      of_rank.counters = words + num_signals;
      of_rank.flushed = of_rank.counters + num_counters;
      of_rank.covered.resize(num_ranks);
      of_rank.landed.resize(num_ranks);
    }
  }
  size_t words_per_rank() const { return size_t{num_contexts} * (num_signals + num_counters + 1); }
  Context& context(uint32_t rank, uint32_t index) { return contexts[size_t{rank} * num_contexts + index]; }

  // Whether a rank's connection to another one was asked for.
  bool connects(uint32_t rank, uint32_t peer) const { return peer % rank_stride == rank % rank_stride; }

  const uint32_t num_contexts, num_signals, num_counters;
  const uint32_t rank_stride;     // between those that are connected
  uint32_t num_open;              // ranks that have not closed it
  std::vector<bool> is_open;      // by rank
  std::vector<GinPort> ports;     // by rank
  std::vector<Context> contexts;  // of rank 0, then of rank 1, ...
};

GinEngine::GinEngine(Cluster& cluster, check::Checker* checker, Random random)
    : cluster_(cluster), checker_(checker), random_(random) {
  const auto draw_delay = [this] { return uint64_t{1} << (2 + random_.below(17)); };
  read_delay_ = draw_delay();
  landing_delay_ = draw_delay();
  signal_delay_ = draw_delay();
  lost_.resize(cluster.topology().num_ranks());
  num_connected_.resize(cluster.topology().num_ranks());
}

GinEngine::~GinEngine() = default;

GinComm GinEngine::connect(uint32_t rank, const runtime::NetworkNeeds& needs) {
  forget_closed();
  std::shared_ptr<GinNetwork>& connected = networks_[num_connected_[rank]++];
  if (connected == nullptr) connected = std::make_shared<GinNetwork>(this, cluster_, needs);
  GinNetwork& network = *connected;
  // Each rank's own host allocates, so that addresses do not depend on which host is first.
  network.place(rank, static_cast<uint64_t*>(cluster_.executor().memory().allocate(
                          rank, {network.words_per_rank() * sizeof(uint64_t)}, Memory::Zone::ordinary)));
  ++cluster_.rank(static_cast<int>(rank)).num_networks;
  return {reinterpret_cast<uint64_t>(&network.ports[rank]),
          rank,
          cluster_.topology().num_ranks(),
          network.num_contexts,
          network.num_signals,
          network.num_counters};
}

void GinEngine::disconnect(const GinComm& comm) {
  const GinPort& port = *reinterpret_cast<const GinPort*>(comm.handle);
  port.network->is_open[port.rank] = false;
  --port.network->num_open;
  Rank& rank = cluster_.rank(static_cast<int>(port.rank));
  --rank.num_networks;
  cluster_.executor().memory().release(port.rank, port.network->context(port.rank, 0).signals);
  rank.collect_idle();
  forget_closed();
}

// Kernels that are under way, or whose GPU is silent and may wake, use their network still.
void GinEngine::forget_closed() {
  for (uint32_t rank = 0; rank < cluster_.topology().num_ranks(); ++rank) {
    if (!cluster_.rank(static_cast<int>(rank)).is_idle()) return;
  }
  std::erase_if(networks_, [](const auto& numbered) { return numbered.second->num_open == 0; });
}

// ---- Finding things

uint64_t GinEngine::num_issued(const GinPort& port, uint32_t index) const {
  return port.network->context(port.rank, index).num_issued;
}

const uint64_t* GinEngine::flushed(const GinPort& port, uint32_t index) const {
  return port.network->context(port.rank, index).flushed;
}

void GinEngine::acquire_flushed(const GinPort& port, uint32_t index) {
  if (checker_ == nullptr) return;
  checker_->acquire(*cluster_.executor().current_checker_thread(),
                    port.network->context(port.rank, index).flushed_knowledge);
}

uint64_t* GinEngine::counter(const GinPort& port, uint32_t index, uint32_t counter, check::Pc pc) const {
  const uint32_t limit = port.network->num_counters;
  if (counter >= limit) {
    cluster_.executor().fail_thread(
        pc, [=] { return "GIN counter " + std::to_string(counter) + ", expected less than " + std::to_string(limit); });
  }
  return port.network->context(port.rank, index).counters + counter;
}

uint64_t* GinEngine::signal(const GinPort& port, uint32_t index, dev::Signal signal, check::Pc pc) const {
  return locate_signal(port, port.rank, index, signal, pc);
}

std::byte* GinEngine::locate(uint32_t rank, uint32_t on_rank, dev::WindowAddress address, uint64_t bytes,
                             check::Pc pc) const {
  const Window* window = cluster_.rank(static_cast<int>(rank)).windows.find(address.window);
  if (window == nullptr) {
    cluster_.executor().fail_thread(
        pc, [=] { return "GIN was given a window that rank " + std::to_string(rank) + " has not registered"; });
  }
  const uint64_t limit = window->bytes[on_rank];
  if (address.offset > limit || bytes > limit - address.offset) {
    cluster_.executor().fail_thread(pc, [=] {
      return "GIN: " + std::to_string(bytes) + " bytes at offset " + std::to_string(address.offset) +
             " of a window of " + std::to_string(limit) + " bytes on rank " + std::to_string(on_rank);
    });
  }
  return window->memory[on_rank] + address.offset;
}

uint64_t* GinEngine::locate_signal(const GinPort& port, uint32_t on_rank, uint32_t index, dev::Signal signal,
                                   check::Pc pc) const {
  if (signal.window != nullptr) {
    return reinterpret_cast<uint64_t*>(locate(port.rank, on_rank, {signal.window, signal.index}, sizeof(uint64_t), pc));
  }
  const uint32_t limit = port.network->num_signals;
  if (signal.index >= limit) {
    cluster_.executor().fail_thread(pc, [=] {
      return "GIN signal " + std::to_string(signal.index) + ", expected less than " + std::to_string(limit);
    });
  }
  return port.network->context(on_rank, index).signals + signal.index;
}

// ---- Issuing

void GinEngine::issue(const GinPort& port, uint32_t index, const GinRequest& request, check::Pc pc) {
  Executor& executor = cluster_.executor();
  const uint32_t rank = port.rank;
  if (request.peer >= cluster_.topology().num_ranks()) {
    executor.fail_thread(pc, [=] { return "GIN peer " + std::to_string(request.peer) + " does not exist"; });
  }
  if (!port.network->connects(rank, request.peer)) {
    executor.fail_thread(pc, [=] { return "GIN peer " + std::to_string(request.peer) + " is not on the rail"; });
  }
  const auto operation = std::make_shared<Operation>();
  operation->request = request;
  operation->port = &port;
  operation->context = index;
  if (operation->is_put()) operation->dst = locate(rank, request.peer, request.at_peer, request.bytes, pc);
  if (request.kind == GinRequest::Kind::put) operation->src = locate(rank, rank, request.local, request.bytes, pc);
  if (operation->is_get()) {
    operation->dst = locate(rank, rank, request.local, request.bytes, pc);
    operation->src = locate(rank, request.peer, request.at_peer, request.bytes, pc);
  }
  if (request.signal.strength != dev::SignalAction::kNone) {
    operation->signal = locate_signal(port, request.peer, index, request.signal.signal, pc);
    operation->has_signal_pending = true;
  }
  if (request.counter != dev::kNoCounter) operation->counter = counter(port, index, request.counter, pc);

  GinNetwork::Context& from = port.network->context(rank, index);
  operation->number = from.num_issued++;
  from.unflushed.insert(operation->number);
  count(*operation);
  announce(*operation, pc);
  await_earlier(*operation);
  if (operation->is_put() || !operation->awaited.empty()) from.in_flight.push_back(operation);
  start_pieces(operation);
  executor.yield();
}

void GinEngine::count(const Operation& operation) {
  LinkCounters& counters = cluster_.counters();
  const GinRequest& request = operation.request;
  if (operation.is_put()) counters.count_put(operation.rank(), request.peer, request.bytes);
  if (operation.is_get()) counters.count_get(operation.rank(), request.peer, request.bytes);
  if (operation.signal != nullptr) counters.count_signal(operation.rank(), request.peer);
}

void GinEngine::announce(Operation& operation, check::Pc pc) {
  if (checker_ == nullptr) return;
  cluster_.executor().require_room_for_operation(pc);
  check::Thread& issuer = *cluster_.executor().current_checker_thread();
  operation.issued = checker_->moment(issuer);
  const char* what = operation.is_put() ? "GIN put" : operation.is_get() ? "GIN get" : "GIN signal";
  operation.checked = checker_->begin(issuer, what, check::Checker::Proxy::generic, pc);
  if (operation.src != nullptr) checker_->reads(*operation.checked, operation.src, operation.request.bytes);
  if (operation.dst != nullptr) checker_->writes(*operation.checked, operation.dst, operation.request.bytes);
  if (operation.signal != nullptr) operation.published = checker_->publish(issuer);
}

// A strong signal says that all puts before it in its queue have landed. Before it are those of which its issuer knows:
// another thread's may just as well have been later.
void GinEngine::await_earlier(Operation& operation) {
  if (operation.request.signal.strength != dev::SignalAction::kStrong) return;
  const uint32_t peer = operation.request.peer;
  GinNetwork::Context& from = operation.port->network->context(operation.rank(), operation.context);
  const auto is_earlier = [&](check::Checker::Moment issued) {
    return checker_ == nullptr || checker_->knows(*cluster_.executor().current_checker_thread(), issued);
  };
  std::erase_if(from.landed[peer], [&](const GinNetwork::Landed& put) {
    if (!is_earlier(put.issued)) return false;
    from.covered[peer].learn(put.knowledge);
    return true;
  });
  operation.published.learn(from.covered[peer]);
  for (const OperationPtr& put : from.in_flight) {
    if (put->request.peer == peer && put->num_unlanded > 0 && is_earlier(put->issued)) {
      operation.awaited.insert(put->number);
    }
  }
}

// ---- Under way

void GinEngine::after_delay(const Operation& operation, uint64_t delay, std::function<void()> action) {
  cluster_.engine().after_delay(operation.rank(), delay,
                                [network = operation.port->network->shared_from_this(), action] { action(); });
}

bool GinEngine::is_lost(const Operation& operation) const {
  return lost_[operation.rank()] || lost_[operation.request.peer];
}

void GinEngine::lose(uint32_t rank) { lost_[rank] = true; }

void GinEngine::start_pieces(const OperationPtr& operation) {
  const uint64_t bytes = operation->request.bytes;
  if (bytes == 0) {
    operation->num_unread = operation->num_unlanded = 0;
    finish_read(operation);
    return;
  }
  constexpr uint64_t kMaxPieces = 4;
  const uint64_t num_pieces = 1 + random_.below(std::min(bytes, kMaxPieces));
  operation->num_unread = operation->num_unlanded = static_cast<uint32_t>(num_pieces);
  uint64_t offset = 0;
  for (uint64_t left = num_pieces; left > 0; --left) {
    const uint64_t remaining = bytes - offset;
    const uint64_t size = left == 1 ? remaining : 1 + random_.below(remaining - left + 1);
    start_piece(operation, offset, size);
    offset += size;
  }
}

// A piece is read at one random moment and written at a later one.
void GinEngine::start_piece(const OperationPtr& operation, uint64_t offset, uint64_t bytes) {
  auto data = std::make_shared<std::vector<std::byte>>(bytes);
  const auto land = [this, operation, offset, data] {
    if (is_lost(*operation)) return;
    cluster_.executor().copy(operation->dst + offset, data->data(), data->size());
    --operation->num_unlanded;
    if (operation->num_unlanded == 0) finish_landing(operation);
  };
  const auto read = [this, operation, offset, data, land] {
    if (is_lost(*operation)) return forget_read(*operation);
    const auto* source =
        operation->src != nullptr ? operation->src : reinterpret_cast<const std::byte*>(&operation->request.value);
    std::memcpy(data->data(), source + offset, data->size());
    after_delay(*operation, landing_delay_, land);
    --operation->num_unread;
    if (operation->num_unread == 0) finish_read(operation);
  };
  after_delay(*operation, read_delay_, read);
}

// What is sent to a lost rank never leaves. Who has waited for that in vain may do as if it had: nobody will see it.
void GinEngine::forget_read(const Operation& operation) {
  if (checker_ == nullptr || operation.is_get()) return;
  GinNetwork::Context& from = operation.port->network->context(operation.rank(), operation.context);
  checker_->learn_reads(from.flushed_knowledge, *operation.checked);
}

void GinEngine::finish_read(const OperationPtr& operation) {
  if (operation->counter != nullptr) {
    after_delay(*operation, signal_delay_, [this, operation] {
      if (operation->port->network->is_open[operation->rank()]) {
        check::Knowledge knowledge;
        if (checker_ != nullptr) checker_->learn_reads(knowledge, *operation->checked);
        deliver(*operation, operation->counter, 1, knowledge);
      }
      operation->counter = nullptr;
      close(*operation);
    });
  }
  if (operation->request.bytes == 0) finish_landing(operation);
  if (!operation->is_get()) finish_flush(operation);
}

void GinEngine::finish_landing(const OperationPtr& operation) {
  GinNetwork::Context& from = operation->port->network->context(operation->rank(), operation->context);
  if (operation->is_get()) {
    finish_flush(operation);
  } else if (operation->is_put()) {
    const auto learn = [&](check::Knowledge& knowledge) {
      if (checker_ != nullptr) checker_->learn(knowledge, *operation->checked);
    };
    learn(operation->published);
    if (checker_ != nullptr) {
      GinNetwork::Landed landed{operation->issued, {}};
      learn(landed.knowledge);
      from.landed[operation->request.peer].push_back(landed);
    }
    const std::vector<OperationPtr> others = from.in_flight;
    for (const OperationPtr& later : others) {
      if (later->awaited.erase(operation->number) == 0) continue;
      learn(later->published);
      deliver_if_ready(later);
    }
  }
  deliver_if_ready(operation);
  std::erase_if(from.in_flight,
                [](const OperationPtr& other) { return other->num_unlanded == 0 && other->awaited.empty(); });
  close(*operation);
}

void GinEngine::deliver_if_ready(const OperationPtr& operation) {
  if (operation->signal == nullptr || operation->num_unlanded > 0 || !operation->awaited.empty()) return;
  after_delay(*operation, signal_delay_, [this, operation] {
    if (is_lost(*operation)) return;
    const bool is_open = operation->port->network->is_open[operation->request.peer];
    if (is_open || operation->signals_window()) {
      deliver(*operation, operation->signal, operation->request.signal.value, operation->published);
    }
    operation->has_signal_pending = false;
    close(*operation);
  });
}

void GinEngine::finish_flush(const OperationPtr& operation) {
  GinNetwork::Context& from = operation->port->network->context(operation->rank(), operation->context);
  if (checker_ != nullptr) {
    if (operation->is_get()) {
      checker_->learn(from.flushed_knowledge, *operation->checked);
    } else {
      checker_->learn_reads(from.flushed_knowledge, *operation->checked);
    }
  }
  from.unflushed.erase(operation->number);
  const uint64_t num_flushed = from.unflushed.empty() ? from.num_issued : *from.unflushed.begin();
  if (operation->port->network->is_open[operation->rank()]) {
    cluster_.executor().copy(from.flushed, &num_flushed, sizeof(num_flushed));
  }
  operation->is_flushed = true;
  close(*operation);
}

// What the operation has to tell, as a sum that kernels wait for.
void GinEngine::deliver(const Operation& operation, uint64_t* word, uint64_t value, const check::Knowledge& knowledge) {
  if (checker_ != nullptr) checker_->deliver(*operation.checked, word, sizeof(uint64_t), knowledge);
  const uint64_t sum = *word + value;
  cluster_.executor().copy(word, &sum, sizeof(sum));
}

// When nothing more can come of it.
void GinEngine::close(Operation& operation) {
  const bool is_open = operation.num_unread > 0 || operation.num_unlanded > 0 || operation.has_signal_pending ||
                       operation.counter != nullptr || !operation.is_flushed;
  if (is_open || operation.checked == nullptr) return;
  checker_->end(std::exchange(operation.checked, nullptr));
}

}  // namespace nccl_ep::sim
