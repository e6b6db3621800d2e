// SPDX-License-Identifier: Apache-2.0
#include "sim/stream.hpp"

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/error.hpp"

namespace nccl_ep::sim {

namespace {

void add_node(CapturePoint& point, Work work) {
  if (std::holds_alternative<GraphWork>(work)) {
    throw Error(ncclInvalidUsage, "a graph cannot be launched into a stream that is being captured");
  }
  Graph& graph = *point.capture->graph;
  graph.nodes.push_back({std::move(work), point.nodes});
  point.nodes = {static_cast<uint32_t>(graph.nodes.size() - 1)};
}

void join_capture(Stream& stream, const CapturePoint& point) {
  if (!stream.is_capturing()) {
    stream.point.capture = point.capture;
    point.capture->streams.push_back(&stream);
  } else if (stream.point.capture != point.capture) {
    throw Error(ncclInvalidUsage, "a stream that is being captured waits for an event of another capture");
  }
  for (uint32_t node : point.nodes) {
    const auto& known = stream.point.nodes;
    if (std::find(known.begin(), known.end(), node) == known.end()) stream.point.nodes.push_back(node);
  }
}

// How many of the graph's nodes have a path to one of `ends`.
size_t count_reaching(const Graph& graph, const std::vector<uint32_t>& ends) {
  std::vector<bool> reaches(graph.nodes.size());
  for (uint32_t node : ends) reaches[node] = true;
  for (size_t node = graph.nodes.size(); node-- > 0;) {
    if (!reaches[node]) continue;
    for (uint32_t before : graph.nodes[node].after) reaches[before] = true;
  }
  return static_cast<size_t>(std::count(reaches.begin(), reaches.end(), true));
}

}  // namespace

std::shared_ptr<Milestone> Event::awaitable_record() const {
  if (point.capture != nullptr) {
    throw Error(ncclInvalidUsage, "the event was last recorded in a capture, so the host cannot wait for it");
  }
  return last_record;
}

void put(Stream& stream, Work work, const check::Knowledge& host) {
  if (stream.is_capturing()) {
    add_node(stream.point, std::move(work));
  } else {
    stream.pending.push_back({std::move(work), host});
  }
}

void record(Event& event, Stream& stream, const check::Knowledge& host) {
  event.point = stream.point;
  event.last_record = nullptr;
  if (stream.is_capturing()) return;
  event.last_record = std::make_shared<Milestone>();
  stream.pending.push_back({RecordWork{event.last_record}, host});
}

void wait_for(Event& event, Stream& stream, const check::Knowledge& host) {
  if (event.point.capture != nullptr) {
    if (event.point.capture->origin == nullptr) {
      throw Error(ncclInvalidUsage, "the event was recorded in a capture that has ended; record it again");
    }
    join_capture(stream, event.point);
  } else if (stream.is_capturing()) {
    throw Error(ncclInvalidUsage, "a stream that is being captured waits for an event recorded outside the capture");
  } else if (event.last_record != nullptr) {
    stream.pending.push_back({WaitWork{event.last_record}, host});
  }
}

void begin_capture(Stream& stream) {
  if (stream.is_capturing()) throw Error(ncclInvalidUsage, "the stream is already being captured");
  auto capture = std::make_shared<Capture>();
  capture->origin = &stream;
  capture->graph = std::make_shared<Graph>();
  capture->graph->rank = stream.rank;
  capture->streams = {&stream};
  stream.point = {capture, {}};
}

std::shared_ptr<const Graph> end_capture(Stream& stream) {
  if (!stream.is_capturing() || stream.point.capture->origin != &stream) {
    throw Error(ncclInvalidUsage, "no capture was begun on this stream");
  }
  std::shared_ptr<Graph> graph = stream.point.capture->graph;
  const std::string problem = stream.point.capture->problem;
  const size_t num_joined = count_reaching(*graph, stream.point.nodes);
  abandon_capture(stream);
  if (!problem.empty()) throw Error(ncclInvalidUsage, "there is no graph: " + problem);
  if (num_joined != graph->nodes.size()) {
    throw Error(ncclInvalidUsage, std::to_string(graph->nodes.size() - num_joined) + " of the capture's " +
                                      std::to_string(graph->nodes.size()) +
                                      " nodes are on streams that were not joined to the captured one; record an "
                                      "event behind them and let the captured stream wait for it");
  }
  return graph;
}

void abandon_capture(Stream& stream) {
  if (!stream.is_capturing()) return;
  const std::shared_ptr<Capture> capture = stream.point.capture;
  capture->origin = nullptr;
  for (Stream* member : capture->streams) member->point = {};
  capture->streams.clear();
}

}  // namespace nccl_ep::sim
