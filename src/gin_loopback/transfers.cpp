// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/transfers.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <thread>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kInlineBytes = 8;
constexpr std::chrono::seconds kLongestDrain{10};

// The value is read now: what NCCL hands over with a request is host memory that no copy engine can read.
void take_inline(Region src, int rank, uint64_t bytes, Copy* copy) {
  if (bytes > kInlineBytes) {
    throw Error(ncclInvalidArgument, "a put of " + std::to_string(bytes) +
                                         " bytes from host memory, expected at most " + std::to_string(kInlineBytes));
  }
  const CUdeviceptr address = src.memory->at(rank, src.offset, bytes);
  copy->kind = Copy::Kind::kInline;
  std::memcpy(&copy->inline_value, reinterpret_cast<const void*>(address), bytes);
}

}  // namespace

Contexts::Contexts(Connection& connection, int count)
    : connection_(connection), count_(count), queues_(static_cast<size_t>(count) * connection.num_ranks()) {}

Contexts::~Contexts() {
  try {
    drain();
  } catch (const std::exception& error) {
    warn(error.what());
  }
}

size_t Contexts::queue_of(int context, uint32_t rank) const {
  const uint32_t num_ranks = connection_.num_ranks();
  if (context < 0 || context >= count_ || rank >= num_ranks) {
    throw Error(ncclInvalidArgument, "context " + std::to_string(context) + ", rank " + std::to_string(rank) +
                                         ", expected less than " + std::to_string(count_) + " and " +
                                         std::to_string(num_ranks));
  }
  return static_cast<size_t>(context) * num_ranks + rank;
}

Copy::Kind Contexts::kind_of_copy(uint32_t rank) const {
  return static_cast<int>(rank) == connection_.rank() ? Copy::Kind::kBounced : Copy::Kind::kDirect;
}

Transfer* Contexts::put(int context, uint32_t rank, Region dst, Region src, uint64_t bytes, const PutSignal* signal) {
  const size_t queue = queue_of(context, rank);
  Transfer transfer = {};
  transfer.is_put = true;
  transfer.copy.bytes = bytes;
  if (bytes > 0) {
    transfer.copy.dst = dst.memory->at(rank, dst.offset, bytes);
    if (src.memory->is_host()) {
      take_inline(src, connection_.rank(), bytes, &transfer.copy);
    } else {
      transfer.copy.kind = kind_of_copy(rank);
      transfer.copy.src = src.memory->at(connection_.rank(), src.offset, bytes);
    }
  }
  if (signal != nullptr) {
    signal->word.memory->signal_at(signal->word.offset);
    transfer.signal = Signal{signal->word.memory->id(), signal->word.offset, signal->value};
    transfer.is_strong = signal->is_strong;
  }
  return enqueue(queue, transfer);
}

Transfer* Contexts::get(int context, uint32_t rank, Region local_dst, Region src, uint64_t bytes) {
  const size_t queue = queue_of(context, rank);
  Transfer transfer = {};
  transfer.copy.kind = kind_of_copy(rank);
  transfer.copy.bytes = bytes;
  if (bytes > 0) {
    transfer.copy.dst = local_dst.memory->at(connection_.rank(), local_dst.offset, bytes);
    transfer.copy.src = src.memory->at(rank, src.offset, bytes);
  }
  return enqueue(queue, transfer);
}

Transfer* Contexts::enqueue(size_t queue, const Transfer& transfer) {
  const auto locked = connection_.lock();
  if (unused_.empty()) unused_.push_back(&transfers_.emplace_back());
  Transfer* added = unused_.back();
  unused_.pop_back();
  *added = transfer;
  added->owner = this;
  added->start_time = Clock::now() + connection_.faults().draw_delay();
  queues_[queue].push_back(added);
  return added;
}

bool Contexts::test(Transfer* transfer) {
  const auto locked = connection_.lock();
  if (!transfer->is_done) return false;
  unused_.push_back(transfer);
  return true;
}

void Contexts::progress() {
  const auto locked = connection_.lock();
  const ContextScope scope(connection_.cuda_context());
  try {
    connection_.progress();
    const Clock::time_point now = Clock::now();
    for (size_t queue = 0; queue < queues_.size(); ++queue) {
      start_copies(queue, now);
      finish_transfers(queue);
    }
  } catch (...) {
    connection_.set_failed();
    throw;
  }
}

void Contexts::start_copies(size_t queue, Clock::time_point now) {
  Faults& faults = connection_.faults();
  auto& lanes = connection_.lanes();
  const size_t usual_lane = queue / connection_.num_ranks() % lanes.size();
  for (Transfer* transfer : queues_[queue]) {
    if (transfer->has_started) continue;
    if (!is_ending_ && (transfer->start_time > now || faults.draw_yield())) {
      if (faults.reorder()) continue;
      return;
    }
    if (transfer->copy.bytes == 0) {
      transfer->has_landed = true;
    } else {
      Lane& lane = *lanes[faults.draw_choice(lanes.size(), usual_lane)];
      if (lane.is_full()) return;
      lane.start(transfer->copy, &transfer->has_landed);
    }
    transfer->has_started = true;
  }
}

void Contexts::finish_transfers(size_t queue) {
  const uint32_t rank = queue % connection_.num_ranks();
  bool have_earlier_puts_landed = true;
  for (Transfer* transfer : queues_[queue]) {
    if (!transfer->has_landed) {
      have_earlier_puts_landed &= !transfer->is_put;
      continue;
    }
    const bool may_signal = have_earlier_puts_landed || !transfer->is_strong;
    if (transfer->signal && may_signal && connection_.post(rank, *transfer->signal)) transfer->signal.reset();
    transfer->is_done = !transfer->signal;
  }
  std::erase_if(queues_[queue], [](const Transfer* transfer) { return transfer->is_done; });
}

bool Contexts::has_open_transfers() {
  const auto locked = connection_.lock();
  return std::any_of(queues_.begin(), queues_.end(), [](const Queue& queue) { return !queue.empty(); });
}

void Contexts::drain() {
  is_ending_ = true;
  const Clock::time_point deadline = Clock::now() + kLongestDrain;
  while (!connection_.has_failed() && has_open_transfers()) {
    progress();
    if (Clock::now() > deadline) {
      connection_.set_failed();  // lanes may still speak of our transfers
      throw Error(ncclRemoteError, "a context ends with transfers that are not done: a rank takes no signals any more");
    }
    std::this_thread::yield();
  }
}

}  // namespace nccl_ep::loopback
