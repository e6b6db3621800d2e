// SPDX-License-Identifier: Apache-2.0
#include "sim/images.hpp"

#include <link.h>

#include <algorithm>

namespace nccl_ep::sim {

bool Images::find(uintptr_t address) {
  const auto holds = [=](const Range& range) { return range.begin <= address && address < range.end; };
  if (holds(last_found_)) return true;
  const auto found = std::find_if(ranges_.begin(), ranges_.end(), holds);
  if (found == ranges_.end()) return false;
  last_found_ = *found;
  return true;
}

bool Images::contain(uintptr_t address) {
  if (find(address)) return true;
  ranges_.clear();
  const auto add = [](dl_phdr_info* image, size_t, void* ranges) {
    for (size_t i = 0; i < image->dlpi_phnum; ++i) {
      if (image->dlpi_phdr[i].p_type != PT_LOAD) continue;
      const uintptr_t begin = image->dlpi_addr + image->dlpi_phdr[i].p_vaddr;
      static_cast<std::vector<Range>*>(ranges)->push_back({begin, begin + image->dlpi_phdr[i].p_memsz});
    }
    return 0;
  };
  dl_iterate_phdr(add, &ranges_);
  return find(address);
}

}  // namespace nccl_ep::sim
