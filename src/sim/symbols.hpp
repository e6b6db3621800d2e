// SPDX-License-Identifier: Apache-2.0
// Source lines of program counters, found with addr2line where it is installed.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace nccl_ep::sim {

struct SourceLine {
  std::string file;  // empty: unknown
  uint32_t line = 0;
  std::string function;
  std::string module;  // the shared library, and where in it; always known for a valid pc
  uint64_t module_offset = 0;

  // "ll/rows.cuh:120 in send_rows", else "libnccl_ep_sim.so+0x1234".
  std::string text() const;
  // The text of the line; empty if the source is not at hand.
  std::string read() const;
};

// The pcs are return addresses. Of code that was inlined there, the innermost line outside the device
// primitives counts.
std::map<uintptr_t, SourceLine> find_source_lines(const std::vector<uintptr_t>& pcs);

}  // namespace nccl_ep::sim
