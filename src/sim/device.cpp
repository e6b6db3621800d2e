// SPDX-License-Identifier: Apache-2.0
#include "sim/device.hpp"

#include <utility>

#include "runtime/elastic.hpp"

namespace nccl_ep::sim {

namespace {

constexpr size_t kElasticPage = 4096;  // small, so that small tensors have a part in the host as well

const KernelEntry& entry_of(runtime::Kernel* kernel) { return *reinterpret_cast<const KernelEntry*>(kernel); }

}  // namespace

SimDevice::SimDevice(std::shared_ptr<Cluster> cluster, uint32_t rank)
    : cluster_(std::move(cluster)), rank_(cluster_->rank(static_cast<int>(rank))) {
  const ncclEpSimConfig_t& config = cluster_->config();
  limits_ = {config.sms_per_gpu, config.max_threads_per_block, config.max_shared_bytes, "sim"};
}

SimDevice::~SimDevice() {
  if (own_stream_ == nullptr || !cluster_->is_of_this_process()) return;
  const Hosts::Lock lock = cluster_->lock();
  if (rank_.streams.find(own_stream_) != nullptr) rank_.destroy_stream(own_stream_);
}

void* SimDevice::allocate(size_t bytes) {
  const Hosts::Lock lock = cluster_->lock();
  rank_.check_may_allocate();
  return cluster_->allocate(rank_, {bytes}, Memory::Zone::ordinary);
}

void* SimDevice::allocate_elastic(size_t& gpu_bytes, size_t& host_bytes) {
  runtime::check_elastic(gpu_bytes, host_bytes);
  const Hosts::Lock lock = cluster_->lock();
  const MemoryBytes bytes{align_up(gpu_bytes, kElasticPage), align_up(host_bytes, kElasticPage)};
  void* memory = cluster_->allocate(rank_, bytes, Memory::Zone::ordinary);
  gpu_bytes = bytes.on_gpu;
  host_bytes = bytes.in_host;
  return memory;
}

void SimDevice::release(void* memory) noexcept {
  if (!cluster_->is_of_this_process()) return;
  const Hosts::Lock lock = cluster_->lock();
  if (!rank_.owns(memory, Memory::Zone::ordinary)) return;
  rank_.spoil_captures_by_release();
  cluster_->release(rank_, memory);
}

void* SimDevice::allocate_host(size_t bytes) {
  const Hosts::Lock lock = cluster_->lock();
  rank_.check_may_allocate();
  return rank_.allocate_host(bytes);
}

void SimDevice::release_host(void* memory) noexcept {
  if (!cluster_->is_of_this_process()) return;
  const Hosts::Lock lock = cluster_->lock();
  rank_.release_host(memory);
}

void SimDevice::enqueue(cudaStream_t stream, Work work) {
  cluster_->begin_work(rank_);
  put(rank_.stream(stream), std::move(work), rank_.host);
}

void SimDevice::fill(void* dst, uint8_t value, size_t bytes, cudaStream_t stream) {
  const Hosts::Lock lock = cluster_->lock();
  cluster_->check_access(dst, bytes, "dst");
  enqueue(stream, FillWork{dst, value, bytes});
}

void SimDevice::copy(void* dst, const void* src, size_t bytes, cudaStream_t stream) {
  const Hosts::Lock lock = cluster_->lock();
  cluster_->check_access(dst, bytes, "dst");
  cluster_->check_access(src, bytes, "src");
  enqueue(stream, CopyWork{dst, src, bytes});
}

cudaStream_t SimDevice::own_stream() {
  const Hosts::Lock lock = cluster_->lock();
  if (own_stream_ == nullptr) own_stream_ = reinterpret_cast<cudaStream_t>(rank_.create_stream());
  return own_stream_;
}

void SimDevice::synchronize(cudaStream_t handle) {
  Hosts::Lock lock = cluster_->lock();
  Stream& stream = rank_.stream(handle);
  if (stream.is_capturing()) {
    throw Error(ncclInvalidUsage, "a stream that is being captured cannot be synchronized");
  }
  cluster_->wait(lock, rank_, "stream " + std::to_string(stream.id), [&stream] { return stream.is_idle(); });
  rank_.host.learn(stream.knowledge);
}

bool SimDevice::is_capturing(cudaStream_t stream) {
  const Hosts::Lock lock = cluster_->lock();
  return rank_.stream(stream).is_capturing();
}

runtime::Kernel* SimDevice::builtin_kernel(std::string_view name) {
  return reinterpret_cast<runtime::Kernel*>(const_cast<KernelEntry*>(find_kernel(name)));
}

runtime::Kernel* SimDevice::load_kernel(std::string_view, const std::string& name) {
  throw Error(ncclInvalidUsage, "the simulator has no kernel " + name + " and cannot load one");
}

uint32_t SimDevice::blocks_per_sm(runtime::Kernel* kernel, const runtime::LaunchShape& shape) {
  const Hosts::Lock lock = cluster_->lock();
  const KernelEntry& entry = entry_of(kernel);
  cluster_->executor().check_launch(entry, shape, entry.args_bytes);
  return cluster_->executor().blocks_per_sm(shape);
}

void SimDevice::launch(runtime::Kernel* kernel, const runtime::LaunchShape& shape, const void* args, size_t args_bytes,
                       cudaStream_t stream) {
  const KernelEntry& entry = entry_of(kernel);
  const Hosts::Lock lock = cluster_->lock();
  cluster_->executor().check_launch(entry, shape, args_bytes);
  const auto* begin = static_cast<const std::byte*>(args);
  enqueue(stream, KernelWork{&entry, shape, {begin, begin + args_bytes}});
}

}  // namespace nccl_ep::sim
