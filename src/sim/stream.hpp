// SPDX-License-Identifier: Apache-2.0
// The host's side of streams and events: putting work in order, and recording it into graphs.
//
// A stream holds its pending work in order; engine.hpp does it. While a stream captures, its work becomes
// nodes of a graph instead, each after the nodes that the stream's last work and the events it waited for
// stand for.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "sim/checker.hpp"
#include "sim/work.hpp"

namespace nccl_ep::sim {

struct Stream;

struct Capture {
  Stream* origin = nullptr;
  std::shared_ptr<Graph> graph;
  std::vector<Stream*> streams;  // all that take part
  std::string problem;           // why there will be no graph, if there is a reason
};

// Points in a capture's graph: the nodes that work put there comes after.
struct CapturePoint {
  std::shared_ptr<Capture> capture;  // null outside captures
  std::vector<uint32_t> nodes;
};

struct PendingWork {
  Work work;
  check::Knowledge host;  // what the host knew when it put the work there
};

struct Stream {
  uint32_t rank = 0;
  uint32_t id = 0;  // of the rank's streams
  std::deque<PendingWork> pending;
  bool busy = false;  // the front of `pending` has been started
  check::Knowledge knowledge;
  CapturePoint point;

  bool is_idle() const { return pending.empty(); }
  bool is_capturing() const { return point.capture != nullptr; }
};

struct Event {
  std::shared_ptr<Milestone> last_record;  // null: never recorded, or recorded in a capture
  CapturePoint point;

  // The last record, which a host may wait for; null if the event was never recorded. Throws if that was in a
  // capture.
  std::shared_ptr<Milestone> awaitable_record() const;
};

void put(Stream& stream, Work work, const check::Knowledge& host);
void record(Event& event, Stream& stream, const check::Knowledge& host);
void wait_for(Event& event, Stream& stream, const check::Knowledge& host);

void begin_capture(Stream& stream);
std::shared_ptr<const Graph> end_capture(Stream& stream);
// Ends a capture without a graph, if the stream takes part in one.
void abandon_capture(Stream& stream);

}  // namespace nccl_ep::sim
