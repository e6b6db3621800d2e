// SPDX-License-Identifier: Apache-2.0
#include "sim/shadow.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace nccl_ep::sim::check {

Shadow::~Shadow() {
  for (const Region& region : regions_) munmap(region.cells, region.shadow_bytes());
}

void Shadow::add(uintptr_t begin, size_t bytes) {
  if (begin % Cell::kBytes != 0) throw std::invalid_argument("tracked memory begins at a multiple of four");
  Region region{begin, (bytes + Cell::kBytes - 1) / Cell::kBytes * Cell::kBytes, nullptr};
  void* cells =
      mmap(nullptr, region.shadow_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (cells == MAP_FAILED) throw std::bad_alloc();
  region.cells = static_cast<Cell*>(cells);
  const auto after = std::upper_bound(regions_.begin(), regions_.end(), begin,
                                      [](uintptr_t address, const Region& r) { return address < r.begin; });
  regions_.insert(after, region);
}

void Shadow::clear(uintptr_t begin, size_t bytes) {
  Cell* first = find(begin, bytes);
  if (first == nullptr || bytes == 0) return;
  Cell* last = first + (bytes + Cell::kBytes - 1) / Cell::kBytes;

  // Whole pages go back to the system and read as zero again; the rest is overwritten.
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t from = reinterpret_cast<uintptr_t>(first), to = reinterpret_cast<uintptr_t>(last);
  const uintptr_t first_page = (from + page - 1) / page * page, last_page = to / page * page;
  constexpr uintptr_t kManyPages = 64;
  if (last_page > first_page && last_page - first_page >= kManyPages * page) {
    std::memset(reinterpret_cast<void*>(from), 0, first_page - from);
    madvise(reinterpret_cast<void*>(first_page), last_page - first_page, MADV_DONTNEED);
    std::memset(reinterpret_cast<void*>(last_page), 0, to - last_page);
  } else {
    std::memset(reinterpret_cast<void*>(from), 0, to - from);
  }
}

bool Shadow::select(uintptr_t address) {
  const auto after = std::upper_bound(regions_.begin(), regions_.end(), address,
                                      [](uintptr_t a, const Region& r) { return a < r.begin; });
  if (after == regions_.begin()) return false;
  const Region& region = *(after - 1);
  if (address - region.begin >= region.bytes) return false;
  last_ = region;
  return true;
}

}  // namespace nccl_ep::sim::check
