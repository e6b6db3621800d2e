// SPDX-License-Identifier: Apache-2.0
// The program and the libraries of this process: where their constants and variables lie.
#pragma once

#include <cstdint>
#include <vector>

namespace nccl_ep::sim {

class Images {
 public:
  bool contain(uintptr_t address);

 private:
  struct Range {
    uintptr_t begin;
    uintptr_t end;
  };
  bool find(uintptr_t address);

  std::vector<Range> ranges_;  // as of the last time that one was missed: libraries come later, too
  Range last_found_{};
};

}  // namespace nccl_ep::sim
