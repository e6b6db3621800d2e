// SPDX-License-Identifier: Apache-2.0
#include "sim/rank.hpp"

#include <algorithm>
#include <new>
#include <utility>

#include "runtime/error.hpp"

namespace nccl_ep::sim {

namespace {

template <class T>
T& found(T* object, uint32_t rank, const std::string& kind) {
  if (object == nullptr) {
    throw Error(ncclInvalidArgument, kind + ": no such " + kind + " on rank " + std::to_string(rank) +
                                         ", expected one that was made there and is not destroyed");
  }
  return *object;
}

}  // namespace

HostAllocation::HostAllocation(Memory& memory, uint32_t rank, size_t bytes)
    : memory_(memory), rank_(rank), bytes_(bytes) {
  constexpr size_t kAlignment = 256;
  const size_t rounded = align_up(std::max<size_t>(bytes, 1), kAlignment);
  begin_ = rounded >= bytes ? std::aligned_alloc(kAlignment, rounded) : nullptr;  // beyond all addresses it wraps
  if (begin_ == nullptr) throw std::bad_alloc();
  memory_.pin(rank_, begin_, bytes_);
}

HostAllocation::~HostAllocation() {
  memory_.unpin(rank_, begin_);
  std::free(begin_);
}

Rank::Rank(uint32_t index, Memory& memory) : index(index), memory_(memory) { default_stream.rank = index; }

Stream& Rank::stream(cudaStream_t handle) {
  return handle == nullptr ? default_stream : found(streams.find(handle), index, "stream");
}

Event& Rank::event(const void* handle) { return found(events.find(handle), index, "event"); }

Window& Rank::window(ncclWindow_t handle) { return found(windows.find(handle), index, "window"); }

const std::shared_ptr<const Graph>& Rank::graph(const void* handle) {
  return found(graphs.find(handle), index, "graph").graph;
}

Stream* Rank::create_stream() {
  auto stream = std::make_unique<Stream>();
  stream->rank = index;
  stream->id = ++num_streams_created_;
  return streams.add(std::move(stream));
}

void Rank::destroy_stream(cudaStream_t handle) {
  std::unique_ptr<Stream> stream = streams.take(handle);
  found(stream.get(), index, "stream");
  abandon_capture(*stream);
  if (!stream->is_idle()) dying_streams.add(std::move(stream));
}

void Rank::collect_idle() {
  if ((!dying_host_memory.empty() || memory_.has_released(index)) && is_idle()) {
    dying_host_memory.clear();
    memory_.withdraw_released(index);
  }
  std::vector<const Stream*> idle;
  for (const auto& stream : dying_streams.all()) {
    if (stream->is_idle()) idle.push_back(stream.get());
  }
  for (const Stream* stream : idle) dying_streams.take(stream);
}

std::vector<Stream*> Rank::all_streams() {
  std::vector<Stream*> all = {&default_stream};
  for (const auto& stream : streams.all()) all.push_back(stream.get());
  for (const auto& stream : dying_streams.all()) all.push_back(stream.get());
  std::sort(all.begin(), all.end(), [](const Stream* a, const Stream* b) { return a->id < b->id; });
  return all;
}

bool Rank::is_idle() {
  const std::vector<Stream*> all = all_streams();
  return std::all_of(all.begin(), all.end(), [](const Stream* stream) { return stream->is_idle(); });
}

void Rank::learn_from_streams() {
  for (const Stream* stream : all_streams()) host.learn(stream->knowledge);
}

void Rank::check_may_allocate() {
  for (const Stream* stream : all_streams()) {
    if (!stream->is_capturing()) continue;
    throw Error(ncclInvalidUsage, "device memory is allocated for rank " + std::to_string(index) +
                                      " while its stream " + std::to_string(stream->id) +
                                      " is captured; expected that before the capture");
  }
}

void Rank::spoil_captures_by_release() {
  for (const Stream* stream : all_streams()) {
    if (!stream->is_capturing()) continue;
    stream->point.capture->problem = "device memory of rank " + std::to_string(index) + " was freed during the capture";
  }
}

void* Rank::allocate_host(size_t bytes) {
  auto allocation = std::make_unique<HostAllocation>(memory_, index, bytes);
  void* begin = allocation->begin();
  host_memory.emplace(begin, std::move(allocation));
  return begin;
}

bool Rank::release_host(const void* memory) {
  const auto allocation = host_memory.find(memory);
  if (allocation == host_memory.end()) return false;
  if (!is_idle()) dying_host_memory.push_back(std::move(allocation->second));
  host_memory.erase(allocation);
  return true;
}

bool Rank::owns(const void* memory, Memory::Zone zone) const {
  const auto allocation = device_memory.find(memory);
  return allocation != device_memory.end() && allocation->second.zone == zone;
}

ncclEpSimUsage_t Rank::usage() const {
  ncclEpSimUsage_t usage{};
  for (const auto& [memory, allocation] : device_memory) {
    usage.device_bytes += allocation.bytes.on_gpu;
    usage.host_bytes += allocation.bytes.in_host;
  }
  for (const auto& [memory, allocation] : host_memory) usage.host_bytes += allocation->bytes();
  usage.num_device_allocations = static_cast<uint32_t>(device_memory.size());
  usage.num_host_allocations = static_cast<uint32_t>(host_memory.size());
  usage.num_networks = num_networks;
  usage.num_windows = static_cast<uint32_t>(windows.all().size());
  usage.num_streams = static_cast<uint32_t>(streams.all().size());
  usage.num_events = static_cast<uint32_t>(events.all().size());
  usage.num_graphs = static_cast<uint32_t>(graphs.all().size());
  return usage;
}

}  // namespace nccl_ep::sim
