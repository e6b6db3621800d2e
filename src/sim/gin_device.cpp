// SPDX-License-Identifier: Apache-2.0
// device/gin.hpp on the simulator: hands requests to the network, and polls the words that it advances.
#include "device/gin.hpp"

#include <string>

#include "device/device.hpp"
#include "sim/caller.hpp"
#include "sim/executor.hpp"
#include "sim/gin.hpp"

namespace nccl_ep::dev {

namespace {

using sim::GinEngine;
using sim::GinPort;
using sim::GinRequest;

// The context a Gin stands for, on the rank whose thread is running.
GinPort& port(const GinComm& comm, uint32_t context, sim::check::Pc pc) {
  auto* found = reinterpret_cast<GinPort*>(comm.handle);
  sim::Executor& executor = sim::Executor::running();
  if (found->rank != executor.current_rank()) {
    executor.fail_thread(pc, [found] { return "GIN was given the GinComm of rank " + std::to_string(found->rank); });
  }
  if (context >= comm.num_contexts) {
    executor.fail_thread(pc, [=, limit = comm.num_contexts] {
      return "GIN context " + std::to_string(context) + ", expected less than " + std::to_string(limit);
    });
  }
  return *found;
}

void issue(const GinComm& comm, uint32_t context, const GinRequest& request, sim::check::Pc pc) {
  const GinPort& self = port(comm, context, pc);
  self.engine->issue(self, context, request, pc);
}

void wait_until(const uint64_t* word, uint64_t least) {
  while (static_cast<int64_t>(ld_acquire<Scope::system>(word) - least) < 0) pause();
}

}  // namespace

void Gin::put(uint32_t peer, WindowAddress dst, WindowAddress src, uint64_t bytes, SignalAction at_peer,
              uint32_t counter) const {
  GinRequest request{GinRequest::Kind::put, peer, dst, src, bytes};
  request.signal = at_peer;
  request.counter = counter;
  issue(comm_, context_, request, EP_CALLER);
}

void Gin::put_value(uint32_t peer, WindowAddress dst, uint64_t value, uint32_t bytes, SignalAction at_peer) const {
  const sim::check::Pc pc = EP_CALLER;
  if (bytes > sizeof(value)) {
    sim::Executor::running().fail_thread(
        pc, [=] { return "Gin::put_value of " + std::to_string(bytes) + " bytes, expected at most 8"; });
  }
  GinRequest request{GinRequest::Kind::put_value, peer, dst, {}, bytes};
  request.value = value;
  request.signal = at_peer;
  issue(comm_, context_, request, pc);
}

void Gin::signal(uint32_t peer, SignalAction at_peer) const {
  GinRequest request{GinRequest::Kind::signal, peer};
  request.signal = at_peer;
  issue(comm_, context_, request, EP_CALLER);
}

void Gin::get(uint32_t peer, WindowAddress src, WindowAddress local_dst, uint64_t bytes) const {
  issue(comm_, context_, {GinRequest::Kind::get, peer, src, local_dst, bytes}, EP_CALLER);
}

void Gin::flush() const {
  const GinPort& self = port(comm_, context_, EP_CALLER);
  wait_until(self.engine->flushed(self, context_), self.engine->num_issued(self, context_));
  self.engine->acquire_flushed(self, context_);
}

bool Gin::flush_within(uint64_t ns) const {
  const GinPort& self = port(comm_, context_, EP_CALLER);
  const uint64_t* flushed = self.engine->flushed(self, context_);
  const uint64_t issued = self.engine->num_issued(self, context_), start = clock_ns();
  bool done = false;
  while (!done && clock_ns() - start <= ns) {
    done = static_cast<int64_t>(ld_acquire<Scope::system>(flushed) - issued) >= 0;
    if (!done) pause();
  }
  self.engine->acquire_flushed(self, context_);
  return done;
}

uint64_t Gin::read_signal(Signal signal) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  return ld_acquire<Scope::system>(self.engine->signal(self, context_, signal, pc));
}

void Gin::wait_signal(Signal signal, uint64_t least) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  wait_until(self.engine->signal(self, context_, signal, pc), least);
}

void Gin::reset_signal(Signal signal) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  st_relaxed<Scope::system>(self.engine->signal(self, context_, signal, pc), uint64_t{0});
}

uint64_t Gin::read_counter(uint32_t counter) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  return ld_acquire<Scope::system>(self.engine->counter(self, context_, counter, pc));
}

void Gin::wait_counter(uint32_t counter, uint64_t least) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  wait_until(self.engine->counter(self, context_, counter, pc), least);
}

void Gin::reset_counter(uint32_t counter) const {
  const sim::check::Pc pc = EP_CALLER;
  const GinPort& self = port(comm_, context_, pc);
  st_relaxed<Scope::system>(self.engine->counter(self, context_, counter, pc), uint64_t{0});
}

}  // namespace nccl_ep::dev
