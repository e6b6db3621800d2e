// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/signals.hpp"

namespace nccl_ep::loopback {

std::unique_ptr<SignalWriter> SignalWriter::open() {
  std::unique_ptr<SignalWriter> writer(new SignalWriter);
  writer->stream_ = make_stream();
  void* pinned = nullptr;
  check(driver().cuMemHostAlloc(&pinned, sizeof(uint64_t), CU_MEMHOSTALLOC_PORTABLE), "cuMemHostAlloc");
  writer->pinned_ = static_cast<uint64_t*>(pinned);
  return writer;
}

SignalWriter::~SignalWriter() {
  if (stream_ != nullptr) {
    driver().cuStreamSynchronize(stream_);
    driver().cuStreamDestroy(stream_);
  }
  if (pinned_ != nullptr) driver().cuMemFreeHost(pinned_);
}

void SignalWriter::add(Memory& memory, uint64_t offset, uint64_t value) {
  const CUdeviceptr word = memory.signal_at(offset);
  uint64_t sum = 0;
  if (memory.signal_values().empty()) {
    sum = read(word) + value;  // kernels reset such signals behind our back
  } else {
    sum = memory.signal_values()[offset / sizeof(uint64_t)] += value;
  }
  constexpr unsigned int kAfterAllEarlierWrites = 0;  // CU_STREAM_WRITE_VALUE_DEFAULT
  check(driver().cuStreamWriteValue64(stream_, word, sum, kAfterAllEarlierWrites), "cuStreamWriteValue64");
}

uint64_t SignalWriter::read(CUdeviceptr word) {
  check(driver().cuMemcpyAsync(reinterpret_cast<CUdeviceptr>(pinned_), word, sizeof(uint64_t), stream_),
        "cuMemcpyAsync");
  synchronize();
  return *pinned_;
}

void SignalWriter::synchronize() { check(driver().cuStreamSynchronize(stream_), "signals"); }

}  // namespace nccl_ep::loopback
