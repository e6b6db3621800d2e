// SPDX-License-Identifier: Apache-2.0
// The happens-before checker: reports every pair of conflicting accesses that nothing orders.
//
// The executor, the async engine and the host side of the simulated cluster tell it what happens; it never
// changes what happens. All of it runs under the cluster's lock, one call at a time.
//
//   Knowledge   which accesses of which agents happen before a point. Streams, events, hosts and signals have it.
//   Thread      a CUDA thread of a running grid: an agent with knowledge.
//   Operation   what an engine does on its own (a bulk copy, a GIN put, a stream's memcpy): an agent that starts
//               with its issuer's knowledge, and whose accesses become known only by learning of it.
//
// An edge between a releasing and an acquiring access counts only if each one's scope includes the other
// thread. Knowledge has two halves: `ordered`, and `async_ready`, the part that a proxy fence has made
// visible to bulk copies. A bulk copy needs the second of whatever was written, whether by ordinary stores or by
// bulk copies of other blocks: that a copy has finished shows it to ordinary accesses only. Bulk copies of its own
// block it sees without. As PTX has it, a proxy is the block's own: fences count for the block that executes them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "sim/clock.hpp"

namespace nccl_ep::sim::check {

// Same order as in the device primitives, so that they convert with a cast.
enum class Scope : uint8_t { block, gpu, system };
enum class Order : uint8_t { relaxed, acquire, release, acq_rel };

using Pc = uintptr_t;  // where the kernel performs the access: a return address inside it

struct Knowledge {
  Clock ordered;
  Clock async_ready;

  void learn(const Knowledge& other);
};

// Who a thread is, and whose code it runs.
struct GridName {
  std::string kernel;
  uint32_t rank = 0;
  uint32_t num_blocks = 0;
  uint32_t num_threads = 0;  // per block
};

class Grid;
class Thread;
class Operation;

struct Report {
  std::string text;  // several lines, ready to print
};

// Says what an address is to a reader: "rank 2 window + 0x40", "rank 0 block 3 shared + 0x100".
using DescribeAddress = std::function<std::string(uintptr_t)>;

class Checker {
 public:
  explicit Checker(DescribeAddress describe);
  ~Checker();
  Checker(const Checker&) = delete;
  Checker& operator=(const Checker&) = delete;

  // --- Memory. Accesses outside the tracked regions are ignored. Regions do not overlap; few and large is
  // best.
  void track(const void* begin, size_t bytes);
  // What lies there is new: a fresh allocation, or a block's shared memory at its start. Clears mbarriers as
  // well.
  void forget(const void* begin, size_t bytes);

  // --- Grids. Threads begin knowing what the stream knows; the stream learns what all of them know when they
  // end.
  Grid* begin_grid(const GridName& name, const Knowledge& stream);
  Thread& thread(Grid& grid, uint32_t block, uint32_t thread_in_block);
  void end_grid(Grid* grid, Knowledge& stream);  // frees it

  // --- Accesses of a thread.
  void read(Thread& thread, const void* address, size_t bytes, Pc pc);
  void write(Thread& thread, const void* address, size_t bytes, Pc pc);
  void load(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc);
  void store(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc);
  // A read-modify-write that took effect. A failed compare-and-swap is a load.
  void update(Thread& thread, const void* address, size_t bytes, Order order, Scope scope, Pc pc);
  // Sixteen bytes that travel as one: they race with ordinary accesses, not with one another, and publish
  // nothing.
  void read_unit(Thread& thread, const void* address, Pc pc);
  void write_unit(Thread& thread, const void* address, Pc pc);

  void fence(Thread& thread, Scope scope);
  void fence_proxy_async(Thread& thread);
  void fence_mbar_init(Thread& thread);

  // Warp and block barriers, grid barriers, named barriers: when the last one has come, these threads learn what each of
  // them knows, and what was `brought` by those who only arrived: what they had published by then.
  void meet(std::span<Thread* const> threads, const Knowledge& brought = {});

  // --- mbarriers, by their address.
  void mbar_init(Thread& thread, const void* mbar, Pc pc);
  void mbar_inval(Thread& thread, const void* mbar, Pc pc);
  void mbar_arrive(Thread& thread, const void* mbar, Pc pc);  // expect_tx included
  void mbar_complete_tx(Operation& operation, const void* mbar);
  void mbar_complete_phase(const void* mbar);
  void mbar_observe(Thread& thread, const void* mbar, Pc pc, bool phase_done);  // test or wait

  // --- Operations. Announce all that an operation will touch when it is issued, whenever it is carried out.
  // Bulk copies go through the async proxy, the others (GIN, stream operations) do not. `what` is a literal
  // that names the operation in reports.
  enum class Proxy : uint8_t { generic, async };
  // Whether another one can be followed. begin() and begin_grid() throw no_room() otherwise; on a fiber, where nothing may
  // be thrown, ask first.
  bool has_room_for_operation() const;
  static std::string no_room();
  Operation* begin(Thread& issuer, const char* what, Proxy proxy, Pc pc);
  Operation* begin(const Knowledge& stream, uint32_t rank, const char* what);
  void reads(Operation& operation, const void* address, size_t bytes);
  void writes(Operation& operation, const void* address, size_t bytes);
  // A bulk load tells which mbarrier it will complete on.
  void will_complete_on(Operation& operation, const void* mbar);
  // The learner knows from now on that the operation has read its source / has finished.
  void learn_reads(Thread& learner, const Operation& operation);
  void learn(Thread& learner, const Operation& operation);
  void learn_reads(Knowledge& learner, const Operation& operation);
  void learn(Knowledge& learner, const Operation& operation);
  // Nobody will learn of this operation any more.
  void end(Operation* operation);

  // --- What a thread does now, for asking later whether another one comes after it.
  struct Moment {
    Slot slot;
    Epoch epoch;
  };
  Moment moment(const Thread& thread) const;
  bool knows(const Thread& thread, Moment moment) const;

  // --- Knowledge that travels by other means (GIN signals, grid-independent waits).
  Knowledge publish(Thread& thread);
  void acquire(Thread& thread, const Knowledge& knowledge);
  // An engine changes a word in memory that threads poll with load(): it carries `knowledge` to whoever
  // acquires it.
  void deliver(Operation& operation, const void* address, size_t bytes, const Knowledge& knowledge);

  // --- Results. Cheap to ask after every step of the simulation.
  bool has_findings() const;
  // All findings so far as text, apart from those at lines that say "race-ok:". Needs a normal stack and
  // takes time; when there turns out to be nothing to report, has_findings() is false again.
  const std::vector<Report>& reports();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nccl_ep::sim::check
