// SPDX-License-Identifier: Apache-2.0
// What streams and graphs are made of: pieces of work that a GPU does one after the other or side by side.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <variant>
#include <vector>

#include "runtime/runtime.hpp"
#include "sim/checker.hpp"

namespace nccl_ep::sim {

struct KernelEntry;

struct KernelWork {
  const KernelEntry* kernel;
  runtime::LaunchShape shape;
  std::vector<std::byte> args;
};

struct CopyWork {
  void* dst;
  const void* src;
  size_t bytes;
};

struct FillWork {
  void* dst;
  uint8_t value;
  size_t bytes;
};

// One record of an event: reached when the work before it is done.
struct Milestone {
  bool reached = false;
  check::Knowledge knowledge;
  std::vector<std::function<void()>> on_reached;
};

struct RecordWork {
  std::shared_ptr<Milestone> milestone;
};

struct WaitWork {
  std::shared_ptr<Milestone> milestone;
};

struct Graph;

struct GraphWork {
  std::shared_ptr<const Graph> graph;
};

using Work = std::variant<KernelWork, CopyWork, FillWork, RecordWork, WaitWork, GraphWork>;

struct GraphNode {
  Work work;                    // a kernel, copy or fill
  std::vector<uint32_t> after;  // indices of nodes that must be done before
};

// Nodes come after those they depend on.
struct Graph {
  uint32_t rank = 0;
  std::vector<GraphNode> nodes;
};

}  // namespace nccl_ep::sim
