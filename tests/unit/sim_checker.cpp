// SPDX-License-Identifier: Apache-2.0
// The happens-before checker alone: short histories of a few threads, each with the verdict it must get.
#include "sim/checker.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "sim/agents.hpp"

using namespace nccl_ep::sim::check;

namespace {

// Two ranks of two blocks of 64 threads each, and some memory. Threads are named by (rank, block, thread).
struct World {
  static constexpr uint32_t kRanks = 2, kBlocks = 2, kThreads = 64;

  alignas(64) std::array<uint32_t, 1024> memory{};
  Checker checker{[this](uintptr_t address) {
    return "word " + std::to_string((address - reinterpret_cast<uintptr_t>(memory.data())) / 4);
  }};
  std::array<Knowledge, kRanks> streams;
  std::array<Grid*, kRanks> grids{};
  Pc next_pc = 1;

  World() {
    checker.track(memory.data(), sizeof memory);
    for (uint32_t rank = 0; rank < kRanks; ++rank) launch(rank);
  }
  ~World() {
    for (uint32_t rank = 0; rank < kRanks; ++rank) finish(rank);
  }

  void launch(uint32_t rank) { grids[rank] = checker.begin_grid({"kernel", rank, kBlocks, kThreads}, streams[rank]); }
  void finish(uint32_t rank) {
    if (grids[rank] != nullptr) checker.end_grid(std::exchange(grids[rank], nullptr), streams[rank]);
  }

  Thread& at(uint32_t rank, uint32_t block, uint32_t thread) { return checker.thread(*grids[rank], block, thread); }
  std::vector<Thread*> warp(uint32_t rank, uint32_t block, uint32_t warp_idx, uint32_t count = 32) {
    std::vector<Thread*> threads;
    for (uint32_t i = 0; i < count; ++i) threads.push_back(&at(rank, block, 32 * warp_idx + i));
    return threads;
  }

  void read(Thread& t, uint32_t word, size_t bytes = 4) { checker.read(t, &memory[word], bytes, next_pc++); }
  void write(Thread& t, uint32_t word, size_t bytes = 4) { checker.write(t, &memory[word], bytes, next_pc++); }
  void load(Thread& t, uint32_t word, Order order, Scope scope) {
    checker.load(t, &memory[word], 4, order, scope, next_pc++);
  }
  void store(Thread& t, uint32_t word, Order order, Scope scope) {
    checker.store(t, &memory[word], 4, order, scope, next_pc++);
  }
  void update(Thread& t, uint32_t word, Order order, Scope scope) {
    checker.update(t, &memory[word], 4, order, scope, next_pc++);
  }
  // A bulk store that its thread has waited for.
  void finished_bulk_store(Thread& t, uint32_t dst, uint32_t src) {
    Operation* op = bulk_store(t, dst, src);
    checker.learn(t, *op);
    checker.end(op);
  }
  Operation* bulk_store(Thread& t, uint32_t dst, uint32_t src, size_t bytes = 16) {
    Operation* op = checker.begin(t, "bulk store", Checker::Proxy::async, next_pc++);
    checker.reads(*op, &memory[src], bytes);
    checker.writes(*op, &memory[dst], bytes);
    return op;
  }

  bool clean() { return !checker.has_findings(); }
  std::string report() {
    const std::vector<Report>& reports = checker.reports();
    return reports.empty() ? "" : reports.front().text;
  }
  bool says(const char* text) { return report().find(text) != std::string::npos; }
};

constexpr uint32_t kData = 0, kFlag = 100, kFlag2 = 101, kMbar = 200, kSource = 400, kTarget = 800;

// Rank 0 writes data and raises a flag; rank 1 reads the flag and then the data.
void pass_message(World& w, Thread& writer, Thread& reader, Order store, Scope store_scope, Order load,
                  Scope load_scope) {
  w.write(writer, kData);
  w.store(writer, kFlag, store, store_scope);
  w.load(reader, kFlag, load, load_scope);
  w.read(reader, kData);
}

}  // namespace

TEST_CASE("unordered accesses race unless both read") {
  World w;
  w.read(w.at(0, 0, 0), kData);
  w.read(w.at(1, 0, 0), kData);
  CHECK(w.clean());
  w.write(w.at(0, 0, 1), kData);
  CHECK(w.says("race: nothing orders"));
  CHECK(w.says("word 0"));
  CHECK(w.says("write by kernel rank 0 block 0 warp 0 lane 1"));
}

TEST_CASE("the race is seen in either order of the accesses") {
  World w;
  w.write(w.at(0, 0, 0), kData);
  w.read(w.at(1, 1, 33), kData);
  CHECK(w.says("read by kernel rank 1 block 1 warp 1 lane 1"));
  CHECK(w.says("after write by kernel rank 0 block 0 warp 0 lane 0"));
}

TEST_CASE("different bytes of a word do not conflict") {
  World w;
  auto* bytes = reinterpret_cast<unsigned char*>(w.memory.data());
  w.checker.write(w.at(0, 0, 0), bytes + 0, 1, 1);
  w.checker.write(w.at(0, 0, 1), bytes + 1, 1, 2);
  w.checker.write(w.at(0, 0, 2), bytes + 2, 2, 3);
  CHECK(w.clean());
  w.checker.read(w.at(0, 0, 3), bytes + 3, 1, 4);
  CHECK_FALSE(w.clean());
}

TEST_CASE("wide and unaligned accesses cover all their words") {
  World w;
  auto* bytes = reinterpret_cast<unsigned char*>(w.memory.data());
  w.checker.write(w.at(0, 0, 0), bytes + 2, 16, 1);
  w.checker.read(w.at(0, 0, 1), bytes, 2, 2);
  w.checker.read(w.at(0, 0, 1), bytes + 18, 2, 3);
  CHECK(w.clean());
  w.checker.read(w.at(0, 0, 1), bytes + 17, 1, 4);
  CHECK_FALSE(w.clean());
}

TEST_CASE("memory that is not tracked is ignored, and forgotten memory is new") {
  World w;
  int elsewhere = 0;
  w.checker.write(w.at(0, 0, 0), &elsewhere, 4, 1);
  w.checker.write(w.at(0, 0, 1), &elsewhere, 4, 2);
  w.write(w.at(0, 0, 0), kData);
  w.checker.forget(w.memory.data(), sizeof w.memory);
  w.write(w.at(0, 0, 1), kData);
  CHECK(w.clean());
}

TEST_CASE("a release and an acquire pass a message; anything less does not") {
  using enum Order;
  const auto verdict = [](Order store, Scope store_scope, Order load, Scope load_scope) {
    World w;
    pass_message(w, w.at(0, 0, 0), w.at(1, 0, 0), store, store_scope, load, load_scope);
    return w.clean();
  };
  CHECK(verdict(release, Scope::system, acquire, Scope::system));
  CHECK_FALSE(verdict(relaxed, Scope::system, acquire, Scope::system));
  CHECK_FALSE(verdict(release, Scope::system, relaxed, Scope::system));
  CHECK_FALSE(verdict(release, Scope::gpu, acquire, Scope::system));
  CHECK_FALSE(verdict(release, Scope::system, acquire, Scope::gpu));
}

TEST_CASE("each side's scope must include the other thread") {
  using enum Order;
  const auto verdict = [](uint32_t reader_block, Scope scope) {
    World w;
    pass_message(w, w.at(0, 0, 0), w.at(0, reader_block, 40), release, scope, acquire, scope);
    return w.clean();
  };
  CHECK(verdict(0, Scope::block));
  CHECK_FALSE(verdict(1, Scope::block));
  CHECK(verdict(1, Scope::gpu));
}

TEST_CASE("a flag that is too narrow in scope is itself a race") {
  World w;
  w.store(w.at(0, 0, 0), kFlag, Order::relaxed, Scope::gpu);
  w.load(w.at(1, 0, 0), kFlag, Order::relaxed, Scope::system);
  CHECK(w.says("the scope of a synchronising access leaves the other thread out"));
}

TEST_CASE("fences make relaxed accesses pass messages") {
  using enum Order;
  const auto verdict = [](bool writer_fence, bool reader_fence, Scope scope) {
    World w;
    Thread &writer = w.at(0, 0, 0), &reader = w.at(1, 0, 0);
    w.write(writer, kData);
    if (writer_fence) w.checker.fence(writer, scope);
    w.store(writer, kFlag, relaxed, Scope::system);
    w.load(reader, kFlag, relaxed, Scope::system);
    if (reader_fence) w.checker.fence(reader, scope);
    w.read(reader, kData);
    return w.clean();
  };
  CHECK(verdict(true, true, Scope::system));
  CHECK_FALSE(verdict(false, true, Scope::system));
  CHECK_FALSE(verdict(true, false, Scope::system));
  CHECK_FALSE(verdict(true, true, Scope::gpu));
}

TEST_CASE("a fence publishes what came before it and nothing after") {
  World w;
  Thread &writer = w.at(0, 0, 0), &reader = w.at(1, 0, 0);
  w.checker.fence(writer, Scope::system);
  w.write(writer, kData);
  w.store(writer, kFlag, Order::relaxed, Scope::system);
  w.load(reader, kFlag, Order::acquire, Scope::system);
  w.read(reader, kData);
  CHECK_FALSE(w.clean());
}

TEST_CASE("a release does not publish what the thread does afterwards") {
  World w;
  Thread &writer = w.at(0, 0, 0), &reader = w.at(1, 0, 0);
  w.store(writer, kFlag, Order::release, Scope::system);
  w.write(writer, kData);
  w.load(reader, kFlag, Order::acquire, Scope::system);
  w.read(reader, kData);
  CHECK_FALSE(w.clean());
}

TEST_CASE("read-modify-writes continue a release sequence, stores end it") {
  using enum Order;
  const auto verdict = [](bool update) {
    World w;
    w.write(w.at(0, 0, 0), kData);
    w.update(w.at(0, 0, 0), kFlag, release, Scope::system);
    if (update) {
      w.update(w.at(0, 1, 0), kFlag, relaxed, Scope::system);
    } else {
      w.store(w.at(0, 1, 0), kFlag, relaxed, Scope::system);
    }
    w.load(w.at(1, 0, 0), kFlag, acquire, Scope::system);
    w.read(w.at(1, 0, 0), kData);
    return w.clean();
  };
  CHECK(verdict(true));
  CHECK_FALSE(verdict(false));
}

TEST_CASE("a counter collects what all who add to it release") {
  World w;
  for (uint32_t i = 0; i < 8; ++i) {
    Thread& writer = w.at(0, i % 2, 5 * i);
    w.write(writer, kData + i);
    w.update(writer, kFlag, Order::release, Scope::gpu);
  }
  w.update(w.at(0, 1, 63), kFlag, Order::acq_rel, Scope::gpu);
  w.write(w.at(0, 1, 63), kData, 32);
  CHECK(w.clean());
}

TEST_CASE("knowledge is passed on through a third thread") {
  World w;
  w.write(w.at(0, 0, 0), kData);
  w.store(w.at(0, 0, 0), kFlag, Order::release, Scope::gpu);
  w.load(w.at(0, 1, 0), kFlag, Order::acquire, Scope::gpu);
  w.store(w.at(0, 1, 0), kFlag2, Order::release, Scope::system);
  w.load(w.at(1, 0, 0), kFlag2, Order::acquire, Scope::system);
  w.write(w.at(1, 0, 0), kData);
  CHECK(w.clean());
}

TEST_CASE("sync_warp orders its lanes and nobody else") {
  const auto verdict = [](uint32_t lanes, uint32_t reader) {
    World w;
    w.write(w.at(0, 0, 3), kData);
    const auto warp = w.warp(0, 0, 0, lanes);
    w.checker.meet(warp);
    w.read(w.at(0, 0, reader), kData);
    return w.clean();
  };
  CHECK(verdict(32, 31));
  CHECK_FALSE(verdict(32, 32));
  CHECK(verdict(8, 7));
  CHECK_FALSE(verdict(8, 8));
}

TEST_CASE("lane 0 releases what its warp wrote only after sync_warp") {
  const auto verdict = [](bool sync) {
    World w;
    const auto warp = w.warp(0, 0, 0);
    for (uint32_t i = 0; i < 32; ++i) w.write(*warp[i], kData + i);
    if (sync) w.checker.meet(warp);
    w.store(*warp[0], kFlag, Order::release, Scope::system);
    w.load(w.at(1, 0, 0), kFlag, Order::acquire, Scope::system);
    w.read(w.at(1, 0, 0), kData + 17);
    return w.clean();
  };
  CHECK(verdict(true));
  CHECK_FALSE(verdict(false));
}

TEST_CASE("bar_arrive gives what was done by then, and does not take") {
  const auto verdict = [](const auto& act) {
    World w;
    Thread& arriving = w.at(0, 0, 4);
    const auto waiting = w.warp(0, 0, 1);
    w.write(arriving, kData);
    w.write(*waiting[4], kData + 1);
    const Knowledge brought = w.checker.publish(arriving);
    w.write(arriving, kData + 2);
    w.checker.meet(waiting, brought);
    act(w, arriving, *waiting[0]);
    return w.clean();
  };
  CHECK(verdict([](World& w, Thread&, Thread& waiting) { w.read(waiting, kData); }));
  CHECK_FALSE(verdict([](World& w, Thread& arriving, Thread&) { w.read(arriving, kData + 1); }));
  CHECK_FALSE(verdict([](World& w, Thread&, Thread& waiting) { w.read(waiting, kData + 2); }));
}

TEST_CASE("units race with ordinary accesses, not with units, and publish nothing") {
  World w;
  Thread &writer = w.at(0, 0, 0), &reader = w.at(1, 0, 0);
  w.write(writer, kData);
  w.checker.write_unit(writer, &w.memory[kFlag], 1);
  w.checker.read_unit(reader, &w.memory[kFlag], 2);
  w.checker.write_unit(w.at(1, 1, 0), &w.memory[kFlag], 3);
  CHECK(w.clean());
  w.read(reader, kData);
  CHECK_FALSE(w.clean());
}

TEST_CASE("a plain read of a unit is a race") {
  World w;
  w.checker.write_unit(w.at(0, 0, 0), &w.memory[kFlag], 1);
  w.read(w.at(1, 0, 0), kFlag + 3);
  CHECK(w.says("after unit write"));
}

TEST_CASE("the source of a bulk store is being read until bulk_wait_read, the target written until bulk_wait") {
  enum class Wait { none, read, all };
  const auto verdict = [](Wait wait, uint32_t word) {
    World w;
    Thread& t = w.at(0, 0, 0);
    Operation* op = w.bulk_store(t, kTarget, kSource);
    if (wait == Wait::read) w.checker.learn_reads(t, *op);
    if (wait == Wait::all) w.checker.learn(t, *op);
    w.write(t, word);
    w.checker.end(op);
    return w.clean();
  };
  CHECK_FALSE(verdict(Wait::none, kSource));
  CHECK(verdict(Wait::read, kSource));
  CHECK(verdict(Wait::all, kSource));
  CHECK_FALSE(verdict(Wait::none, kTarget));
  CHECK_FALSE(verdict(Wait::read, kTarget));
  CHECK(verdict(Wait::all, kTarget));
}

TEST_CASE("a bulk store of ordinary writes needs fence_proxy_async somewhere on the way") {
  enum class Fence { none, writer, issuer, too_early };
  const auto report = [](Fence fence) {
    World w;
    const auto warp = w.warp(0, 0, 0);
    if (fence == Fence::too_early) w.checker.fence_proxy_async(*warp[5]);
    w.write(*warp[5], kSource);
    if (fence == Fence::writer) w.checker.fence_proxy_async(*warp[5]);
    w.checker.meet(warp);
    if (fence == Fence::issuer) w.checker.fence_proxy_async(*warp[0]);
    w.checker.end(w.bulk_store(*warp[0], kTarget, kSource));
    return w.report();
  };
  CHECK(report(Fence::writer) == "");
  CHECK(report(Fence::issuer) == "");
  CHECK(report(Fence::none).find("missing fence_proxy_async") != std::string::npos);
  CHECK(report(Fence::too_early).find("missing fence_proxy_async") != std::string::npos);
  CHECK(report(Fence::none).find("bulk store issued by kernel rank 0 block 0 warp 0 lane 0") != std::string::npos);
}

TEST_CASE("acquired data needs fence_proxy_async before a bulk load reads it") {
  const auto verdict = [](bool fence) {
    World w;
    Thread& reader = w.at(1, 0, 0);
    w.write(w.at(0, 0, 0), kData);
    w.store(w.at(0, 0, 0), kFlag, Order::release, Scope::system);
    w.load(reader, kFlag, Order::acquire, Scope::system);
    if (fence) w.checker.fence_proxy_async(reader);
    w.checker.end(w.bulk_store(reader, kTarget, kData));
    return w.clean();
  };
  CHECK(verdict(true));
  CHECK_FALSE(verdict(false));
}

TEST_CASE("what a bulk store has written needs a fence before another block's bulk copies, in that block") {
  enum class Fence { none, writer, reader, before_acquiring };
  const auto report = [](uint32_t rank, uint32_t block, Fence fence) {
    World w;
    Thread &writer = w.at(0, 0, 0), &reader = w.at(rank, block, 40);
    w.finished_bulk_store(writer, kTarget, kSource);
    if (fence == Fence::writer) w.checker.fence_proxy_async(writer);
    w.store(writer, kFlag, Order::release, Scope::system);
    if (fence == Fence::before_acquiring) w.checker.fence_proxy_async(reader);
    w.load(reader, kFlag, Order::acquire, Scope::system);
    if (fence == Fence::reader) w.checker.fence_proxy_async(reader);
    w.read(reader, kTarget);
    w.checker.end(w.bulk_store(reader, kTarget + 8, kTarget));
    return w.report();
  };
  CHECK(report(0, 0, Fence::none) == "");  // their own block's writes they see
  for (const auto& [rank, block] : {std::pair{0, 1}, std::pair{1, 0}}) {
    CHECK(report(rank, block, Fence::reader) == "");
    for (const Fence useless : {Fence::none, Fence::writer, Fence::before_acquiring}) {
      CHECK(report(rank, block, useless).find("missing fence_proxy_async") != std::string::npos);
    }
  }
}

TEST_CASE("a block's fence serves its other threads, wherever their knowledge comes from") {
  World w;
  Thread &writer = w.at(1, 0, 0), &fencing = w.at(0, 0, 0), &issuer = w.at(0, 0, 40), &elsewhere = w.at(0, 1, 0);
  w.write(writer, kData);
  w.store(writer, kFlag, Order::release, Scope::system);
  w.load(fencing, kFlag, Order::acquire, Scope::system);
  w.checker.fence_proxy_async(fencing);
  w.store(fencing, kFlag2, Order::release, Scope::gpu);
  // The issuer hears of it from another block first, which cannot vouch for the fence.
  w.load(elsewhere, kFlag2, Order::acquire, Scope::gpu);
  w.store(elsewhere, kFlag2 + 1, Order::release, Scope::gpu);
  w.load(issuer, kFlag2 + 1, Order::acquire, Scope::gpu);
  w.load(issuer, kFlag2, Order::acquire, Scope::gpu);
  w.checker.end(w.bulk_store(issuer, kTarget, kData));
  CHECK(w.clean());
  w.checker.end(w.bulk_store(elsewhere, kTarget + 8, kData));
  CHECK(w.says("missing fence_proxy_async"));
}

TEST_CASE("what a put has written needs a fence before bulk copies") {
  const auto verdict = [](bool fence) {
    World w;
    Thread &sender = w.at(0, 0, 0), &receiver = w.at(1, 0, 0);
    Operation* put = w.checker.begin(sender, "put", Checker::Proxy::generic, w.next_pc++);
    w.checker.writes(*put, &w.memory[kData], 16);
    Knowledge signal = w.checker.publish(sender);
    w.checker.learn(signal, *put);
    w.checker.end(put);
    w.checker.acquire(receiver, signal);
    if (fence) w.checker.fence_proxy_async(receiver);
    w.checker.end(w.bulk_store(receiver, kTarget, kData));
    return w.clean();
  };
  CHECK(verdict(true));
  CHECK_FALSE(verdict(false));
}

TEST_CASE("a bulk copy may overwrite what was only read without a proxy fence") {
  World w;
  const auto warp = w.warp(0, 0, 0);
  w.read(*warp[7], kTarget);
  w.checker.meet(warp);
  w.checker.end(w.bulk_store(*warp[0], kTarget, kSource));
  CHECK(w.clean());
}

TEST_CASE("kernels of a stream see each other's writes through all proxies") {
  World w;
  w.write(w.at(0, 0, 0), kSource);
  w.finish(0);
  w.launch(0);
  w.checker.end(w.bulk_store(w.at(0, 1, 7), kTarget, kSource));
  CHECK(w.clean());
}

TEST_CASE("a bulk load is known once its mbarrier's phase is") {
  enum class Mistake { none, no_wait, no_fence, no_barrier };
  const auto verdict = [](Mistake mistake) {
    World w;
    const void* mbar = &w.memory[kMbar];
    const auto warp = w.warp(0, 0, 0);
    w.checker.mbar_init(*warp[0], mbar, w.next_pc++);
    if (mistake != Mistake::no_fence) w.checker.fence_mbar_init(*warp[0]);
    if (mistake != Mistake::no_barrier) w.checker.meet(warp);
    Thread& issuer = *warp[1];
    w.checker.mbar_arrive(issuer, mbar, w.next_pc++);
    Operation* op = w.checker.begin(issuer, "bulk load", Checker::Proxy::async, w.next_pc++);
    w.checker.reads(*op, &w.memory[kSource], 16);
    w.checker.writes(*op, &w.memory[kTarget], 16);
    w.checker.will_complete_on(*op, mbar);
    w.checker.mbar_observe(*warp[2], mbar, w.next_pc++, false);
    w.checker.mbar_complete_tx(*op, mbar);
    w.checker.mbar_complete_phase(mbar);
    w.checker.end(op);
    w.checker.mbar_observe(*warp[2], mbar, w.next_pc++, mistake != Mistake::no_wait);
    w.read(*warp[2], kTarget + 3);
    w.write(*warp[2], kTarget + 3);
    return w.clean();
  };
  CHECK(verdict(Mistake::none));
  CHECK_FALSE(verdict(Mistake::no_wait));
  CHECK_FALSE(verdict(Mistake::no_fence));
  CHECK_FALSE(verdict(Mistake::no_barrier));
}

TEST_CASE("an mbarrier passes on the phase that completed, not the one that is filling") {
  World w;
  const void* mbar = &w.memory[kMbar];
  const auto warp = w.warp(0, 0, 0);
  w.checker.mbar_init(*warp[0], mbar, w.next_pc++);
  w.checker.meet(warp);
  w.write(*warp[1], kData);
  w.checker.mbar_arrive(*warp[1], mbar, w.next_pc++);
  w.checker.mbar_complete_phase(mbar);
  w.write(*warp[1], kData + 1);
  w.checker.mbar_arrive(*warp[1], mbar, w.next_pc++);
  w.checker.mbar_observe(*warp[2], mbar, w.next_pc++, true);
  w.read(*warp[2], kData);
  CHECK(w.clean());
  w.read(*warp[2], kData + 1);
  CHECK_FALSE(w.clean());
}

TEST_CASE("stream order passes from grid to grid, and events between streams") {
  World w;
  w.write(w.at(0, 0, 0), kData);
  w.finish(0);
  w.launch(0);
  w.write(w.at(0, 1, 9), kData);
  w.finish(0);
  CHECK(w.clean());

  Knowledge other_stream = w.streams[1];
  other_stream.learn(w.streams[0]);
  Grid* grid = w.checker.begin_grid({"after", 1, 1, 32}, other_stream);
  w.write(w.checker.thread(*grid, 0, 0), kData);
  w.checker.end_grid(grid, other_stream);
  CHECK(w.clean());

  w.read(w.at(1, 0, 0), kData);  // launched before all that
  CHECK(w.says("after write by after rank 1 block 0 warp 0 lane 0"));
}

TEST_CASE("stream operations are ordered by their stream") {
  World w;
  const auto fill = [&](Knowledge& stream) {
    Operation* op = w.checker.begin(stream, 0, "memset");
    w.checker.writes(*op, &w.memory[kData], 64);
    w.checker.learn(stream, *op);
    w.checker.end(op);
  };
  w.finish(0);
  fill(w.streams[0]);
  w.launch(0);
  w.write(w.at(0, 0, 0), kData + 3);
  CHECK(w.clean());
  Knowledge elsewhere;
  fill(elsewhere);
  CHECK(w.says("write by memset on a stream of rank 0"));
}

TEST_CASE("a slot's new user is not taken for its old one") {
  World w;
  w.write(w.at(0, 0, 0), kData);
  w.finish(0);
  const Knowledge first = w.streams[0];
  w.launch(0);  // takes the same slots
  w.write(w.at(0, 0, 0), kData + 1);
  // Rank 1 hears of the first grid only.
  w.checker.acquire(w.at(1, 0, 0), first);
  w.read(w.at(1, 0, 0), kData);
  CHECK(w.clean());
  w.read(w.at(1, 0, 0), kData + 1);
  CHECK_FALSE(w.clean());
}

TEST_CASE("a weak signal publishes its put, a strong one all before it") {
  const auto verdict = [](bool strong) {
    World w;
    Thread &sender = w.at(0, 0, 0), &receiver = w.at(1, 0, 0);
    std::vector<Operation*> puts;
    for (uint32_t i = 0; i < 2; ++i) {
      puts.push_back(w.checker.begin(sender, "put", Checker::Proxy::generic, w.next_pc++));
      w.checker.writes(*puts[i], &w.memory[kData + 8 * i], 16);
    }
    Knowledge signal = w.checker.publish(sender);
    if (strong) w.checker.learn(signal, *puts[0]);
    w.checker.learn(signal, *puts[1]);
    w.checker.acquire(receiver, signal);
    w.read(receiver, kData + 8);
    CHECK(w.clean());
    w.read(receiver, kData);
    for (Operation* put : puts) w.checker.end(put);
    return w.clean();
  };
  CHECK(verdict(true));
  CHECK_FALSE(verdict(false));
}

TEST_CASE("what an engine delivers at a word is acquired by whoever polls it") {
  World w;
  Thread &sender = w.at(0, 0, 0), &receiver = w.at(1, 0, 0);
  w.write(sender, kData);
  Operation* op = w.checker.begin(sender, "signal", Checker::Proxy::generic, w.next_pc++);
  w.checker.deliver(*op, &w.memory[kFlag], 8, w.checker.publish(sender));
  w.load(receiver, kFlag, Order::acquire, Scope::system);
  w.read(receiver, kData);
  CHECK(w.clean());
  w.checker.end(op);
}

TEST_CASE("findings at the same two lines are reported once") {
  World w;
  for (uint32_t i = 0; i < 10; ++i) {
    w.checker.write(w.at(0, 0, 0), &w.memory[kData + i], 4, 1000);
    w.checker.write(w.at(1, 0, 0), &w.memory[kData + i], 4, 2000);
  }
  CHECK(w.checker.reports().size() == 1);
  CHECK(w.says("9 more between the same two lines"));
}

TEST_CASE("slots run out with an error, and what was given back is used again by who knows its last user") {
  Slots slots;
  const Place place{0, Clock::kMaxSlots};
  const SlotRange most = slots.take(place, Clock::kMaxSlots - 1, {});
  CHECK(slots.has_room(1));
  SlotRange last = slots.take(place, 1, {});
  CHECK_FALSE(slots.has_room(1));
  CHECK_THROWS_WITH_AS(slots.take(place, 1, {}), too_many().c_str(), std::length_error);
  CHECK_THROWS_AS(slots.take(place, most.count, {}), std::length_error);
  last.last_epoch = 3;
  slots.give_back(place, last);
  CHECK_THROWS_AS(slots.take(place, 1, Clock().with(last.first, 2)), std::length_error);
  CHECK(slots.take(place, 1, Clock().with(last.first, 3)).first == last.first);
}
