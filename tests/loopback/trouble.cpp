// SPDX-License-Identifier: Apache-2.0
// More than fits, ranks that end, with and without a farewell, and calls that cannot be carried out.
#include <unistd.h>

#include "fake_driver.hpp"
#include "ranks.hpp"

using namespace nccl_ep::loopback;

namespace {

constexpr uint64_t kBytes = 4096;

bool has_error(const Plugin& plugin, const Proxy& proxy) {
  bool found = false;
  expect(plugin.rma->finish.query_last_error(proxy.context(), &found) == ncclSuccess, "query_last_error");
  return found;
}

Proxy::Call put_with_signal(const Plugin& plugin, void* memory, int peer, uint64_t signal_offset) {
  return [=, &plugin](void* context, void** request) {
    return plugin.rma->put_signal(context, 0, 0, memory, 100, 200, memory, peer, signal_offset, memory, 0, kSignalInc,
                                  true, request);
  };
}

// More than a mailbox holds, so that somebody must notice that nobody takes them out.
void send_many(const Plugin& plugin, Proxy& proxy, void* memory, int peer) {
  std::vector<Proxy::Ticket> tickets;
  for (int i = 0; i < 5000; ++i) {
    tickets.push_back(proxy.submit([&plugin, memory, peer](void* context, void** request) {
      return plugin.rma->put_signal(context, 0, 0, nullptr, 0, 0, nullptr, peer, 8, memory, 0, kSignalInc, true,
                                    request);
    }));
  }
  for (const Proxy::Ticket& ticket : tickets) {
    wait_until([&] { return ticket->load(); }, "signals to a rank that is gone");
  }
}

void exchange_signals(const Plugin& plugin, Proxy& proxy, void* memory, uint64_t data, int num_ranks) {
  for (int peer = 0; peer < num_ranks; ++peer) proxy.submit(put_with_signal(plugin, memory, peer, 0));
  const auto* word = reinterpret_cast<const uint64_t*>(data);
  wait_until([&] { return __atomic_load_n(word, __ATOMIC_ACQUIRE) == static_cast<uint64_t>(num_ranks); }, "signals");
}

}  // namespace

// More copies than streams take, and more signals than mailboxes hold, to a rank that makes no progress for a while.
void run_burst(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  constexpr uint64_t kNumValues = 1000;
  constexpr uint64_t kNumSignals = 5000;
  constexpr uint64_t kMailbox = 4096;
  const uint64_t window_bytes = kNumValues * 8;
  const uint64_t window = fake::allocate(window_bytes, true);
  const uint64_t counter = fake::allocate(8, false);
  std::vector<uint64_t> values(kNumValues);
  for (uint64_t i = 0; i < kNumValues; ++i) values[i] = i * i;
  {
    const Link link(*plugin.rma, board, settings.num_ranks, rank);
    void* memory = link.register_memory(window, window_bytes, kCudaPointer, 0);
    void* signals = link.register_memory(counter, 8, kCudaPointer, kSignalsNeverReset);
    void* host = link.register_memory(reinterpret_cast<uint64_t>(values.data()), window_bytes, kHostPointer, 0);
    if (rank == 0) {
      Proxy proxy(*plugin.rma, link.connection(), 1);
      std::vector<Proxy::Call> calls;
      for (uint64_t i = 0; i < kNumValues; ++i) {
        calls.push_back([=, &plugin](void* context, void** request) {
          return plugin.rma->put(context, 0, i * 8, host, 8, i * 8, memory, 1, request);
        });
      }
      for (uint64_t i = 0; i < kNumSignals; ++i) {
        calls.push_back([=, &plugin](void* context, void** request) {
          return plugin.rma->put_signal(context, 0, 0, nullptr, 0, 0, nullptr, 1, 0, signals, i, kSignalAdd, true,
                                        request);
        });
      }
      const std::vector<Proxy::Ticket> sent = proxy.submit_together(calls);
      wait_until([&] { return sent[kNumValues + kMailbox - 1]->load(); }, "the mailbox is full");
      board.barrier(settings.num_ranks);
      wait_until([&] { return sent.back()->load(); }, "all signals are sent");
      expect(!has_error(plugin, proxy), "an error: " + last_warning());
      board.barrier(settings.num_ranks);
    } else {
      board.barrier(settings.num_ranks);
      Proxy proxy(*plugin.rma, link.connection(), 1);
      const uint64_t* arrived = reinterpret_cast<const uint64_t*>(counter);
      const uint64_t expected = rank == 1 ? kNumSignals * (kNumSignals - 1) / 2 : 0;
      wait_until([&] { return __atomic_load_n(arrived, __ATOMIC_ACQUIRE) == expected; }, "all signals");
      const uint64_t* received = reinterpret_cast<const uint64_t*>(window);
      for (uint64_t i = 0; rank == 1 && i < kNumValues; ++i) expect(received[i] == i * i, "a wrong value");
      board.barrier(settings.num_ranks);
    }
  }
  fake::deallocate(window);
  fake::deallocate(counter);
}

// The last rank's process ends in the middle. The others go on among themselves, and learn of it.
void run_death(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  const int dead = settings.num_ranks - 1;
  const uint64_t data = fake::allocate(kBytes, true);
  {
    const Link link(*plugin.rma, board, settings.num_ranks, rank);
    void* memory = link.register_memory(data, kBytes, kCudaPointer, 0);
    Proxy proxy(*plugin.rma, link.connection(), 1);
    expect(!has_error(plugin, proxy), "an error without a reason");
    board.barrier(settings.num_ranks);
    if (rank == dead) _exit(0);
    wait_until([&] { return has_error(plugin, proxy); }, "the death is noticed");
    expect(last_warning().find("rank " + std::to_string(dead) + " has ended") != std::string::npos, last_warning());
    send_many(plugin, proxy, memory, dead);
    exchange_signals(plugin, proxy, memory, data, dead);

    void* not_made = nullptr;
    const ncclResult_t result = plugin.rma->register_memory(link.connection(), reinterpret_cast<void*>(data), kBytes,
                                                            kCudaPointer, 0, &not_made);
    expect(result == ncclRemoteError, "registering with a dead rank gives " + std::to_string(result));
    expect(last_warning().find("about rank " + std::to_string(dead)) != std::string::npos, last_warning());
    board.barrier(dead);
  }
  fake::deallocate(data);
}

// The last rank closes its connection while others still send. That is no error.
void run_leaving(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  const int leaver = settings.num_ranks - 1;
  const uint64_t data = fake::allocate(kBytes, true);
  {
    auto link = std::make_unique<Link>(*plugin.rma, board, settings.num_ranks, rank);
    void* memory = link->register_memory(data, kBytes, kCudaPointer, 0);
    auto proxy = std::make_unique<Proxy>(*plugin.rma, link->connection(), 1);
    exchange_signals(plugin, *proxy, memory, data, settings.num_ranks);
    board.barrier(settings.num_ranks);
    if (rank == leaver) {
      proxy.reset();
      plugin.rma->close.deregister(link->connection(), memory);
      link.reset();
    }
    board.barrier(settings.num_ranks);
    if (rank != leaver) {
      send_many(plugin, *proxy, memory, leaver);
      expect(!has_error(plugin, *proxy), "leaving is taken for an error: " + last_warning());
    }
  }
  fake::deallocate(data);
}

// What cannot be done is refused with a reason, and does no harm to what follows.
void run_misuse(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  const RmaPluginV14& rma = *plugin.rma;
  const int peer = (rank + 1) % settings.num_ranks;
  const uint64_t data = fake::allocate(kBytes, true);
  const uint64_t hidden = fake::allocate(kBytes, false);
  uint64_t values[4] = {};
  {
    const Link link(rma, board, settings.num_ranks, rank);
    void* memory = link.register_memory(data, kBytes, kCudaPointer, 0);
    void* hidden_memory = link.register_memory(hidden, kBytes, kCudaPointer, 0);
    void* host_memory = link.register_memory(reinterpret_cast<uint64_t>(values), sizeof values, kHostPointer, 0);
    Proxy proxy(rma, link.connection(), 1);

    void* request = nullptr;
    const auto refused = [](ncclResult_t result, const std::string& reason) {
      expect(result == ncclInvalidArgument, reason + ": result " + std::to_string(result));
      expect(own_warning().find(reason) != std::string::npos, "expected '" + reason + "': " + own_warning());
    };
    const auto put = [&](void* src, uint64_t bytes, uint64_t dst_offset, void* dst, uint32_t rank) {
      return rma.put(proxy.context(), 0, 0, src, bytes, dst_offset, dst, rank, &request);
    };
    refused(put(memory, 100, kBytes - 99, memory, peer), "100 bytes at 3997 of memory 0");
    refused(put(memory, 1, ~uint64_t{0}, memory, peer), "1 bytes at 18446744073709551615");
    refused(put(memory, 100, 0, hidden_memory, peer), "cannot be mapped by other ranks");
    refused(put(host_memory, 9, 0, memory, peer), "9 bytes from host memory, expected at most 8");
    refused(put(memory, 1, 0, memory, settings.num_ranks), "context 0, rank");
    refused(put_with_signal(plugin, memory, peer, 4)(proxy.context(), &request), "offset 4, expected a multiple of 8");
    refused(put_with_signal(plugin, memory, peer, kBytes)(proxy.context(), &request), "8 bytes at 4096");
    void* other_file = nullptr;
    expect(rma.register_dma_buf(link.connection(), nullptr, 0, kCudaPointer, 0, -1, 0, &other_file) == ncclInvalidUsage,
           "dma-buf");
    exchange_signals(plugin, proxy, memory, data, settings.num_ranks);
    board.barrier(settings.num_ranks);
  }
  fake::deallocate(data);
  fake::deallocate(hidden);
}
