// SPDX-License-Identifier: Apache-2.0
#include "sim/hosts.hpp"

#include <algorithm>
#include <utility>

#include "runtime/error.hpp"

namespace nccl_ep::sim {

void Hosts::enter(Lock& lock, uint32_t rank) {
  Rank& self = ranks_[rank];
  if (self.presence == Presence::inside) {
    throw Error(ncclInvalidUsage, "rank " + std::to_string(rank) + " has already been entered");
  }
  if (self.presence == Presence::left && threads_.contains(std::this_thread::get_id())) {
    throw Error(ncclInvalidUsage, "rank " + std::to_string(rank) +
                                      " has been left and may enter again when all ranks have left, but this thread "
                                      "is still inside for another rank");
  }
  session_ended_.wait(lock, [&] { return self.presence == Presence::outside; });
  self = {Presence::inside, std::this_thread::get_id()};
  ++threads_[self.thread].num_ranks;
}

void Hosts::leave(uint32_t rank) {
  Rank& self = ranks_[rank];
  if (self.presence != Presence::inside || self.thread != std::this_thread::get_id()) {
    throw Error(ncclInvalidUsage, "rank " + std::to_string(rank) + " cannot be left: this thread has not entered it");
  }
  self = {Presence::left, {}};
  auto thread = threads_.find(std::this_thread::get_id());
  if (--thread->second.num_ranks == 0) threads_.erase(thread);
  const bool all_left =
      std::all_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.presence == Presence::left; });
  if (all_left) {
    std::fill(ranks_.begin(), ranks_.end(), Rank{});
    session_ended_.notify_all();
  }
  if (gpus_may_move()) gpus_.notify_all();
}

void Hosts::check_entered(uint32_t rank) const {
  const Rank& self = ranks_[rank];
  if (self.presence == Presence::inside && self.thread == std::this_thread::get_id()) return;
  throw Error(ncclInvalidUsage, "a call that waits was made for rank " + std::to_string(rank) +
                                    " by a thread that has not entered it (ncclEpSimRankEnter)");
}

void Hosts::wait(Lock& lock, uint32_t rank, std::string what, std::function<bool()> ready) {
  if (ready()) return;
  check_entered(rank);
  Thread& self = threads_.at(std::this_thread::get_id());
  self.waiting_rank = rank;
  self.what = std::move(what);
  self.ready = std::move(ready);
  self.waiting = true;
  if (gpus_may_move()) gpus_.notify_all();
  self.released.wait(lock, [&] { return !self.waiting; });
  self.ready = nullptr;
}

bool Hosts::release_ready() {
  bool any = false;
  for (auto& [id, thread] : threads_) {
    if (!thread.waiting || !thread.ready()) continue;
    thread.waiting = false;
    thread.released.notify_all();
    any = true;
  }
  return any;
}

bool Hosts::gpus_may_move() const {
  const bool all_known =
      std::none_of(ranks_.begin(), ranks_.end(), [](const Rank& r) { return r.presence == Presence::outside; });
  const bool all_wait =
      std::all_of(threads_.begin(), threads_.end(), [](const auto& entry) { return entry.second.waiting; });
  return all_known && all_wait && !threads_.empty();
}

void Hosts::await_gpus_may_move(Lock& lock, const bool& stopping) {
  gpus_.wait(lock, [&] { return stopping || gpus_may_move(); });
}

std::string Hosts::describe() const {
  std::string text;
  for (uint32_t rank = 0; rank < ranks_.size(); ++rank) {
    text += "  rank " + std::to_string(rank);
    auto entry = threads_.find(ranks_[rank].thread);
    if (ranks_[rank].presence == Presence::left) {
      text += " has left";
    } else if (entry == threads_.end()) {
      text += " has not entered";
    } else if (entry->second.waiting && entry->second.waiting_rank == rank) {
      text += " waits for " + entry->second.what;
    } else if (entry->second.waiting) {
      text += " shares its thread with rank " + std::to_string(entry->second.waiting_rank);
    } else {
      text += " is at work";
    }
    text += "\n";
  }
  return text;
}

}  // namespace nccl_ep::sim
