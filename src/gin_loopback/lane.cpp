// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/lane.hpp"

#include <algorithm>

namespace nccl_ep::loopback {
namespace {

CUdeviceptr address(const void* host) { return reinterpret_cast<CUdeviceptr>(host); }

}  // namespace

std::unique_ptr<Lane> Lane::open() {
  std::unique_ptr<Lane> lane(new Lane);  // whose destructor gives back what there is by then
  lane->stream_ = make_stream();
  for (Slot& slot : lane->slots_) check(driver().cuEventCreate(&slot.landed, CU_EVENT_DISABLE_TIMING), "cuEventCreate");
  void* pinned = nullptr;
  check(driver().cuMemHostAlloc(&pinned, kDepth * sizeof(uint64_t) + kBounceBytes, CU_MEMHOSTALLOC_PORTABLE),
        "cuMemHostAlloc");
  lane->inline_values_ = static_cast<uint64_t*>(pinned);
  lane->bounce_buffer_ = reinterpret_cast<char*>(lane->inline_values_ + kDepth);
  return lane;
}

Lane::~Lane() {
  if (stream_ != nullptr) {
    driver().cuStreamSynchronize(stream_);
    driver().cuStreamDestroy(stream_);
  }
  for (const Slot& slot : slots_) {
    if (slot.landed != nullptr) driver().cuEventDestroy(slot.landed);
  }
  if (inline_values_ != nullptr) driver().cuMemFreeHost(inline_values_);
}

void Lane::start(const Copy& requested, bool* landed) {
  const uint64_t idx = num_started_ % kDepth;
  switch (requested.kind) {
    case Copy::Kind::kDirect: copy(requested.dst, requested.src, requested.bytes); break;
    case Copy::Kind::kBounced: bounce(requested); break;
    case Copy::Kind::kInline:
      inline_values_[idx] = requested.inline_value;
      copy(requested.dst, address(&inline_values_[idx]), requested.bytes);
      break;
  }
  check(driver().cuEventRecord(slots_[idx].landed, stream_), "cuEventRecord");
  slots_[idx].told = landed;
  ++num_started_;
}

void Lane::collect() {
  for (; num_landed_ < num_started_; ++num_landed_) {
    const Slot& oldest = slots_[num_landed_ % kDepth];
    const CUresult result = driver().cuEventQuery(oldest.landed);
    if (result == CUDA_ERROR_NOT_READY) return;
    check(result, "a copy");
    *oldest.told = true;
  }
}

void Lane::synchronize() { check(driver().cuStreamSynchronize(stream_), "a copy"); }

void Lane::copy(CUdeviceptr dst, CUdeviceptr src, uint64_t bytes) {
  check(driver().cuMemcpyAsync(dst, src, bytes, stream_), "cuMemcpyAsync");
}

// The stream's order lets the pieces share the buffer.
void Lane::bounce(const Copy& requested) {
  for (uint64_t done = 0; done < requested.bytes; done += kBounceBytes) {
    const uint64_t bytes = std::min(requested.bytes - done, kBounceBytes);
    copy(address(bounce_buffer_), requested.src + done, bytes);
    copy(requested.dst + done, address(bounce_buffer_), bytes);
  }
}

}  // namespace nccl_ep::loopback
