// SPDX-License-Identifier: Apache-2.0
// What ranks of the loopback tests have: a board that all of them see, the plugin, and a proxy, the thread that drives
// the plugin as NCCL's does.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "gin_loopback/nccl_plugin.hpp"

using nccl_ep::loopback::RmaPluginV14;

struct Settings {
  std::string scenario;
  int num_ranks = 4;
  int num_contexts = 3;
  int num_communicators = 1;
  int num_rounds = 50;
  uint64_t seed = 1;
  bool is_nccl_old = false;      // knows the plugin's table v13 only
  bool are_threads = false;      // ranks are threads of one process
  bool is_kernel_wrong = false;  // relies on weak signals where it needs strong ones
  bool is_driver_hasty = false;  // says that copies are done when they are not
};

struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};
void expect(bool holds, const std::string& what);
// Polls until it holds. Throws Failure when the option patience=SECONDS is over.
void wait_until(const std::function<bool()>& holds, const std::string& what);

// What the ranks of a communicator share, processes or threads.
class Board {
 public:
  static Board* make(int count);

  static constexpr int kMostRanks = 8;
  void barrier(int num_ranks);

  char handles[kMostRanks][nccl_ep::loopback::kHandleBytes] = {};  // by rank

 private:
  std::atomic<uint64_t> num_arrived_[kMostRanks + 1] = {};  // by how many take part
};

// The plugin, of a library that is opened as NCCL does it.
struct Plugin {
  Plugin(const char* path, bool is_old);
  const RmaPluginV14* rma;
};

// The last warning in the plugin's log of this process, and the last one that a call of this thread caused.
std::string last_warning();
std::string own_warning();

// One rank's connection to the others.
class Link {
 public:
  Link(const RmaPluginV14& plugin, Board& board, int num_ranks, int rank);
  ~Link();
  void* connection() const { return connection_; }
  void* register_memory(uint64_t address, uint64_t bytes, int type, uint64_t flags) const;

 private:
  const RmaPluginV14& plugin_;
  void* connection_ = nullptr;
};

// Calls the plugin from a thread without a CUDA context.
class Proxy {
 public:
  using Call = std::function<ncclResult_t(void* context, void** request)>;
  using Ticket = std::shared_ptr<std::atomic<bool>>;

  Proxy(const RmaPluginV14& plugin, void* connection, int num_contexts);
  ~Proxy();

  // True in the ticket: the request is done.
  Ticket submit(Call call) { return submit_together({std::move(call)}).front(); }
  // The plugin gets all of them before it can make progress.
  std::vector<Ticket> submit_together(const std::vector<Call>& calls);
  void* context() const { return context_; }

 private:
  struct Request {
    Call call;
    Ticket ticket;
    void* plugins = nullptr;
  };
  void run();
  void advance(std::vector<Request>& open);

  const RmaPluginV14& plugin_;
  void* connection_;
  void* context_ = nullptr;
  std::mutex mutex_;
  std::vector<Request> submitted_;
  std::atomic<bool> is_ending_{false};
  std::string failure_;
  std::thread thread_;
};

// Scenarios; each is what one rank does.
void run_rounds(const Plugin& plugin, Board& board, const Settings& settings, int rank);
void run_burst(const Plugin& plugin, Board& board, const Settings& settings, int rank);
void run_death(const Plugin& plugin, Board& board, const Settings& settings, int rank);
void run_leaving(const Plugin& plugin, Board& board, const Settings& settings, int rank);
void run_misuse(const Plugin& plugin, Board& board, const Settings& settings, int rank);
