// SPDX-License-Identifier: Apache-2.0
#include "sim/engine.hpp"

#include <algorithm>
#include <string>
#include <utility>

namespace nccl_ep::sim {

// One launch of a graph: its nodes start when those before them are done.
struct Engine::GraphRun {
  std::shared_ptr<const Graph> graph;
  std::vector<check::Knowledge> knowledge;  // of each node
  std::vector<uint32_t> num_open;           // how many nodes each still waits for
  std::vector<std::vector<uint32_t>> next;  // the nodes that wait for each
  size_t num_unfinished = 0;
  check::Knowledge* stream = nullptr;
  std::function<void()> done;
};

Engine::Engine(Executor& executor, check::Checker* checker, uint32_t num_ranks, Random random)
    : executor_(executor), checker_(checker), gpus_(num_ranks), random_(random) {
  delay_bound_ = uint64_t{1} << (2 + random_.below(13));
}

void Engine::start(Stream& stream) {
  if (stream.busy || stream.pending.empty() || gpus_[stream.rank].silent) return;
  stream.busy = true;
  after_delay(stream.rank, [this, &stream] {
    const PendingWork& front = stream.pending.front();
    stream.knowledge.learn(front.host);
    run(stream.rank, front.work, stream.knowledge, [this, &stream] { finish(stream); });
  });
}

void Engine::finish(Stream& stream) {
  stream.pending.pop_front();
  stream.busy = false;
  executor_.request_pause();
  start(stream);
}

void Engine::after_delay(uint32_t rank, uint64_t bound, std::function<void()> action) {
  const uint64_t steps = 1 + random_.below(std::max(bound, gpus_[rank].extra_delay));
  executor_.after(steps, [this, rank, action = std::move(action)] {
    if (gpus_[rank].silent) {
      gpus_[rank].stalled.push_back(action);
      return;
    }
    hash_ = Random(hash_ + executor_.steps() + rank).next();
    action();
  });
}

void Engine::set_silent(uint32_t rank, bool silent) {
  gpus_[rank].silent = silent;
  executor_.set_silent(rank, silent);
}

void Engine::resume_awake() {
  for (uint32_t rank = 0; rank < gpus_.size(); ++rank) {
    if (gpus_[rank].silent) continue;
    for (auto& action : std::exchange(gpus_[rank].stalled, {})) after_delay(rank, std::move(action));
  }
}

void Engine::run(uint32_t rank, const Work& work, check::Knowledge& knowledge, std::function<void()> done) {
  std::visit([&](const auto& kind) { run(rank, kind, knowledge, std::move(done)); }, work);
}

void Engine::run(uint32_t rank, const KernelWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  executor_.launch(rank, *work.kernel, work.shape, work.args, knowledge, std::move(done));
}

// Memory may have been freed since the call, or since a graph was captured.
void Engine::check_transfer(uint32_t rank, const char* what, const void* begin, size_t bytes) {
  const Memory& memory = executor_.memory();
  const uint32_t owner = memory.owner(begin);
  if (owner == Memory::kNobody || bytes == 0) return;
  if (owner == rank ? memory.is_allocated(begin, bytes) : memory.was_allocated(begin, bytes)) return;
  executor_.fail(NCCL_EP_SIM_FAILURE_FAULT, "a " + std::string(what) + " on a stream of rank " + std::to_string(rank) +
                                                " of " + std::to_string(bytes) + " bytes at " +
                                                memory.describe(reinterpret_cast<uintptr_t>(begin)) +
                                                ", expected allocated memory");
}

// A copy takes effect at some moment of the time it takes. The work stays where it is until `done`.
void Engine::run(uint32_t rank, const CopyWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  check_transfer(rank, "memcpy", work.src, work.bytes);
  check_transfer(rank, "memcpy", work.dst, work.bytes);
  check::Operation* operation = nullptr;
  if (checker_ != nullptr) {
    operation = checker_->begin(knowledge, rank, "memcpy");
    checker_->reads(*operation, work.src, work.bytes);
    checker_->writes(*operation, work.dst, work.bytes);
  }
  after_delay(rank, [this, rank, &work, &knowledge, operation, done = std::move(done)] {
    executor_.copy(work.dst, work.src, work.bytes);
    end_transfer(rank, operation, knowledge, done);
  });
}

void Engine::run(uint32_t rank, const FillWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  check_transfer(rank, "memset", work.dst, work.bytes);
  check::Operation* operation = nullptr;
  if (checker_ != nullptr) {
    operation = checker_->begin(knowledge, rank, "memset");
    checker_->writes(*operation, work.dst, work.bytes);
  }
  after_delay(rank, [this, rank, &work, &knowledge, operation, done = std::move(done)] {
    executor_.fill(work.dst, work.value, work.bytes);
    end_transfer(rank, operation, knowledge, done);
  });
}

void Engine::end_transfer(uint32_t rank, check::Operation* operation, check::Knowledge& knowledge,
                          std::function<void()> done) {
  after_delay(rank, [this, &knowledge, operation, done = std::move(done)] {
    if (checker_ != nullptr) {
      checker_->learn(knowledge, *operation);
      checker_->end(operation);
    }
    done();
  });
}

void Engine::run(uint32_t, const RecordWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  Milestone& milestone = *work.milestone;
  milestone.reached = true;
  milestone.knowledge = knowledge;
  for (auto& action : std::exchange(milestone.on_reached, {})) action();
  done();
}

void Engine::run(uint32_t rank, const WaitWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  Milestone& milestone = *work.milestone;
  if (!milestone.reached) {
    milestone.on_reached.push_back([this, rank, &work, &knowledge, done = std::move(done)] {
      after_delay(rank, [this, rank, &work, &knowledge, done] { run(rank, work, knowledge, done); });
    });
    return;
  }
  knowledge.learn(milestone.knowledge);
  done();
}

void Engine::run(uint32_t, const GraphWork& work, check::Knowledge& knowledge, std::function<void()> done) {
  const size_t num_nodes = work.graph->nodes.size();
  if (num_nodes == 0) return done();
  auto graph_run = std::make_shared<GraphRun>();
  graph_run->graph = work.graph;
  graph_run->knowledge.assign(num_nodes, knowledge);
  graph_run->num_open.resize(num_nodes);
  graph_run->next.resize(num_nodes);
  graph_run->num_unfinished = num_nodes;
  graph_run->stream = &knowledge;
  graph_run->done = std::move(done);
  for (uint32_t node = 0; node < num_nodes; ++node) {
    const std::vector<uint32_t>& after = work.graph->nodes[node].after;
    graph_run->num_open[node] = static_cast<uint32_t>(after.size());
    for (uint32_t before : after) graph_run->next[before].push_back(node);
  }
  for (uint32_t node = 0; node < num_nodes; ++node) {
    if (graph_run->num_open[node] == 0) start_node(graph_run, node);
  }
}

void Engine::start_node(const std::shared_ptr<GraphRun>& graph_run, uint32_t node) {
  const uint32_t rank = graph_run->graph->rank;
  after_delay(rank, [this, rank, graph_run, node] {
    run(rank, graph_run->graph->nodes[node].work, graph_run->knowledge[node],
        [this, graph_run, node] { finish_node(graph_run, node); });
  });
}

void Engine::finish_node(const std::shared_ptr<GraphRun>& graph_run, uint32_t node) {
  const check::Knowledge& known = graph_run->knowledge[node];
  for (uint32_t next : graph_run->next[node]) {
    graph_run->knowledge[next].learn(known);
    if (--graph_run->num_open[next] == 0) start_node(graph_run, next);
  }
  graph_run->stream->learn(known);
  if (--graph_run->num_unfinished == 0) graph_run->done();
}

}  // namespace nccl_ep::sim
