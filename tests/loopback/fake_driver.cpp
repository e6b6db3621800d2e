// SPDX-License-Identifier: Apache-2.0
#include "fake_driver.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <thread>
#include <vector>

using namespace nccl_ep::loopback;
using Clock = std::chrono::steady_clock;

namespace nccl_ep::loopback {

struct CUevent_st {
  std::atomic<bool> is_done{true};
};

struct CUstream_st {
  struct Work {
    Clock::time_point ready;
    std::function<void()> run;
  };
  CUctx_st* device;
  std::deque<Work> work;
};

struct CUctx_st {
  int id;
  fake::Options options;
  std::mt19937_64 random;
  std::mutex mutex;
  std::condition_variable changed;
  std::set<CUstream_st*> streams;

  void run();
  CUstream_st* pick_stream(Clock::time_point* next);
};

}  // namespace nccl_ep::loopback

namespace {

constexpr CUresult kInvalidValue = static_cast<CUresult>(1);
constexpr CUresult kInvalidContext = static_cast<CUresult>(201);

struct Range {
  uint64_t bytes = 0;
  int fd = -1;             // what others can map
  bool is_usable = false;  // by copies
};

// All that the process has of the driver.
struct Process {
  std::mutex mutex;
  std::list<CUctx_st> devices;
  std::map<uint64_t, Range> ranges;
  std::map<CUmemGenericAllocationHandle, int> handles;
  CUmemGenericAllocationHandle num_handles = 0;
  std::atomic<int> num_streams{0}, num_events{0}, num_pinned{0}, num_reserved{0};

  Range* find(uint64_t address, uint64_t bytes) {
    auto after = ranges.upper_bound(address);
    if (after == ranges.begin()) return nullptr;
    auto& [start, range] = *--after;
    return address + bytes <= start + range.bytes ? &range : nullptr;
  }
  bool is_usable(uint64_t address, uint64_t bytes) {
    const std::lock_guard lock(mutex);
    const Range* range = find(address, bytes);
    return range != nullptr && range->is_usable;
  }
};

Process& process() {
  static Process* all = new Process;  // device threads use it to the end
  return *all;
}

thread_local std::vector<CUcontext> current;

void* pointer(uint64_t address) { return reinterpret_cast<void*>(address); }

void enqueue(CUstream stream, std::function<void()> run) {
  CUctx_st& device = *stream->device;
  const std::lock_guard lock(device.mutex);
  std::chrono::microseconds delay(device.random() % device.options.usual_delay_us);
  if (device.random() % 16 == 0) delay *= 30;
  stream->work.push_back({Clock::now() + delay, std::move(run)});
  device.changed.notify_all();
}

// Who may touch the memory when is up to the ranks, and known through memory that ThreadSanitizer sees elsewhere.
__attribute__((no_sanitize("thread"))) void move_bytes(uint64_t dst, uint64_t src, uint64_t bytes) {
  volatile uint8_t* to = static_cast<uint8_t*>(pointer(dst));
  const volatile uint8_t* from = static_cast<const uint8_t*>(pointer(src));
  for (uint64_t i = 0; i < bytes; ++i) to[i] = from[i];
}

void copy_now(uint64_t dst, uint64_t src, uint64_t bytes) {
  if (!process().is_usable(dst, bytes) || !process().is_usable(src, bytes)) {
    std::fprintf(stderr, "fake driver: a copy of memory that is gone\n");
    std::abort();
  }
  move_bytes(dst, src, bytes);
}

}  // namespace

// A stream whose oldest work is ready; else none, and when there will be one.
CUstream_st* CUctx_st::pick_stream(Clock::time_point* next) {
  std::vector<CUstream_st*> ready;
  *next = Clock::now() + std::chrono::seconds(1);
  for (CUstream_st* stream : streams) {
    if (stream->work.empty()) continue;
    if (stream->work.front().ready <= Clock::now()) ready.push_back(stream);
    *next = std::min(*next, stream->work.front().ready);
  }
  return ready.empty() ? nullptr : ready[random() % ready.size()];
}

void CUctx_st::run() {
  std::unique_lock lock(mutex);
  for (;;) {
    Clock::time_point next;
    CUstream_st* stream = pick_stream(&next);
    if (stream == nullptr) {
      changed.wait_until(lock, next);
      continue;
    }
    const std::function<void()> work = stream->work.front().run;
    lock.unlock();
    work();
    lock.lock();
    stream->work.pop_front();
    changed.notify_all();
  }
}

namespace fake {

CUcontext start_device(const Options& options) {
  Process& all = process();
  const std::lock_guard lock(all.mutex);
  CUctx_st& device = all.devices.emplace_back();
  device.id = static_cast<int>(all.devices.size()) - 1;
  device.options = options;
  device.random.seed(options.seed);
  std::thread([&device] { device.run(); }).detach();
  return &device;
}

void set_current(CUcontext context) { current = {context}; }

uint64_t allocate(uint64_t bytes, bool is_exportable) {
  const int fd = is_exportable ? memfd_create("fake_gpu", MFD_CLOEXEC) : -1;
  if (is_exportable && ftruncate(fd, static_cast<off_t>(bytes)) != 0) std::abort();
  void* mapped = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | (is_exportable ? 0 : MAP_ANONYMOUS), fd, 0);
  if (mapped == MAP_FAILED) std::abort();
  const std::lock_guard lock(process().mutex);
  process().ranges[reinterpret_cast<uint64_t>(mapped)] = {bytes, fd, true};
  return reinterpret_cast<uint64_t>(mapped);
}

void deallocate(uint64_t address) {
  const std::lock_guard lock(process().mutex);
  const Range range = process().ranges.at(address);
  process().ranges.erase(address);
  munmap(pointer(address), range.bytes);
  if (range.fd >= 0) close(range.fd);
}

std::string leftovers() {
  Process& all = process();
  const std::lock_guard lock(all.mutex);
  std::string text;
  const auto add = [&text](const char* what, size_t count) {
    if (count > 0) text += std::to_string(count) + " " + what + " ";
  };
  add("streams", all.num_streams);
  add("events", all.num_events);
  add("pinned", all.num_pinned);
  add("reserved", all.num_reserved);
  add("handles", all.handles.size());
  add("ranges", all.ranges.size());
  return text;
}

}  // namespace fake

extern "C" {

CUresult cuInit(unsigned int) { return CUDA_SUCCESS; }
CUresult cuGetErrorName(CUresult, const char** name) { return *name = "FAKE", CUDA_SUCCESS; }
CUresult cuGetErrorString(CUresult, const char** text) { return *text = "fake", CUDA_SUCCESS; }

CUresult cuCtxGetCurrent(CUcontext* context) {
  *context = current.empty() ? nullptr : current.back();
  return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent_v2(CUcontext context) {
  current.push_back(context);
  return CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent_v2(CUcontext* context) {
  if (current.empty()) return kInvalidContext;
  *context = current.back();
  current.pop_back();
  return CUDA_SUCCESS;
}
CUresult cuCtxGetDevice(CUdevice* device) {
  if (current.empty()) return kInvalidContext;
  *device = current.back()->id;
  return CUDA_SUCCESS;
}
CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode*) { return CUDA_SUCCESS; }
CUresult cuCtxGetStreamPriorityRange(int* least, int* most) {
  *least = 0;
  *most = -5;
  return CUDA_SUCCESS;
}

CUresult cuStreamCreateWithPriority(CUstream* stream, unsigned int flags, int) {
  if (current.empty()) return kInvalidContext;
  if (flags != CU_STREAM_NON_BLOCKING) return kInvalidValue;
  *stream = new CUstream_st{current.back(), {}};
  const std::lock_guard lock(current.back()->mutex);
  current.back()->streams.insert(*stream);
  ++process().num_streams;
  return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
  std::unique_lock lock(stream->device->mutex);
  stream->device->changed.wait(lock, [&] { return stream->work.empty(); });
  return CUDA_SUCCESS;
}
CUresult cuStreamDestroy_v2(CUstream stream) {
  cuStreamSynchronize(stream);
  {
    const std::lock_guard lock(stream->device->mutex);
    stream->device->streams.erase(stream);
  }
  delete stream;
  --process().num_streams;
  return CUDA_SUCCESS;
}
CUresult cuStreamWriteValue64_v2(CUstream stream, CUdeviceptr address, uint64_t value, unsigned int flags) {
  if (current.empty()) return kInvalidContext;
  if (flags != 0 || address % 8 != 0 || !process().is_usable(address, 8)) return kInvalidValue;
  enqueue(stream, [=] { __atomic_store_n(static_cast<uint64_t*>(pointer(address)), value, __ATOMIC_RELEASE); });
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned int) {
  if (current.empty()) return kInvalidContext;
  *event = new CUevent_st;
  ++process().num_events;
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy_v2(CUevent event) {
  delete event;
  --process().num_events;
  return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  event->is_done = stream->device->options.events_come_early;
  enqueue(stream, [=] { event->is_done = true; });
  return CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) { return event->is_done ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY; }

CUresult cuMemcpyAsync(CUdeviceptr dst, CUdeviceptr src, size_t bytes, CUstream stream) {
  if (current.empty()) return kInvalidContext;
  if (bytes == 0 || !process().is_usable(dst, bytes) || !process().is_usable(src, bytes)) return kInvalidValue;
  const size_t half = bytes / 2;  // the second half first
  enqueue(stream, [=] { copy_now(dst + half, src + half, bytes - half); });
  if (half > 0) enqueue(stream, [=] { copy_now(dst, src, half); });
  return CUDA_SUCCESS;
}
CUresult cuMemHostAlloc(void** host, size_t bytes, unsigned int) {
  if (current.empty()) return kInvalidContext;
  *host = std::calloc(1, bytes);
  const std::lock_guard lock(process().mutex);
  process().ranges[reinterpret_cast<uint64_t>(*host)] = {bytes, -1, true};
  ++process().num_pinned;
  return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void* host) {
  const std::lock_guard lock(process().mutex);
  process().ranges.erase(reinterpret_cast<uint64_t>(host));
  std::free(host);
  --process().num_pinned;
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange_v2(CUdeviceptr* base, size_t* bytes, CUdeviceptr address) {
  const std::lock_guard lock(process().mutex);
  if (process().find(address, 1) == nullptr) return kInvalidValue;
  const auto& [start, range] = *--process().ranges.upper_bound(address);
  *base = start;
  *bytes = range.bytes;
  return CUDA_SUCCESS;
}
CUresult cuMemRetainAllocationHandle(CUmemGenericAllocationHandle* handle, void* address) {
  const std::lock_guard lock(process().mutex);
  const Range* range = process().find(reinterpret_cast<uint64_t>(address), 1);
  if (range == nullptr || range->fd < 0) return kInvalidValue;
  process().handles[*handle = ++process().num_handles] = dup(range->fd);
  return CUDA_SUCCESS;
}
CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  const std::lock_guard lock(process().mutex);
  close(process().handles.at(handle));
  process().handles.erase(handle);
  return CUDA_SUCCESS;
}
CUresult cuMemExportToShareableHandle(void* fd, CUmemGenericAllocationHandle handle, CUmemAllocationHandleType,
                                      unsigned long long) {
  const std::lock_guard lock(process().mutex);
  *static_cast<int*>(fd) = dup(process().handles.at(handle));
  return CUDA_SUCCESS;
}
CUresult cuMemImportFromShareableHandle(CUmemGenericAllocationHandle* handle, void* fd, CUmemAllocationHandleType) {
  const std::lock_guard lock(process().mutex);
  process().handles[*handle = ++process().num_handles] = dup(static_cast<int>(reinterpret_cast<intptr_t>(fd)));
  return CUDA_SUCCESS;
}
CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  void* reserved = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) return kInvalidValue;
  *address = reinterpret_cast<uint64_t>(reserved);
  ++process().num_reserved;
  return CUDA_SUCCESS;
}
CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  munmap(pointer(address), bytes);
  --process().num_reserved;
  return CUDA_SUCCESS;
}
CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
  const std::lock_guard lock(process().mutex);
  const int fd = process().handles.at(handle);
  if (mmap(pointer(address), bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED) {
    return kInvalidValue;
  }
  process().ranges[address] = {bytes, -1, false};
  return CUDA_SUCCESS;
}
CUresult cuMemSetAccess(CUdeviceptr address, size_t, const CUmemAccessDesc* access, size_t) {
  const std::lock_guard lock(process().mutex);
  if (access->location.id != current.back()->id) return kInvalidValue;
  process().ranges.at(address).is_usable = true;
  return CUDA_SUCCESS;
}
CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  const std::lock_guard lock(process().mutex);
  process().ranges.erase(address);
  mmap(pointer(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
  return CUDA_SUCCESS;
}
}
