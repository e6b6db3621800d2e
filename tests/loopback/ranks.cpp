// SPDX-License-Identifier: Apache-2.0
// loopback_ranks PLUGIN SCENARIO [OPTION=VALUE...]: exit code 0 if every rank saw what it should.
#include "ranks.hpp"

#include <dlfcn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "fake_driver.hpp"

using namespace nccl_ep::loopback;
using Clock = std::chrono::steady_clock;

namespace {

constexpr std::chrono::microseconds kNap{20};  // of who polls: there are more threads than cores
std::chrono::seconds patience{30};

std::mutex log_mutex;
std::string log_text;
thread_local std::string own_log_text;

void log(LogLevel level, unsigned long, const char*, int, const char* format, ...) {
  char text[1000];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (level != LogLevel::kWarn) return;
  own_log_text = text;
  const std::lock_guard lock(log_mutex);
  log_text = text;
}

}  // namespace

void expect(bool holds, const std::string& what) {
  if (!holds) throw Failure(what);
}

void wait_until(const std::function<bool()>& holds, const std::string& what) {
  const Clock::time_point deadline = Clock::now() + patience;
  while (!holds()) {
    if (Clock::now() > deadline) throw Failure("in vain: " + what);
    std::this_thread::sleep_for(kNap);
  }
}

std::string last_warning() {
  const std::lock_guard lock(log_mutex);
  return log_text;
}

std::string own_warning() { return own_log_text; }

Board* Board::make(int count) {
  void* shared = mmap(nullptr, count * sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return static_cast<Board*>(shared);  // all zero
}

void Board::barrier(int num_ranks) {
  std::atomic<uint64_t>& num_arrived = num_arrived_[num_ranks];
  const uint64_t place = num_arrived++;
  const uint64_t needed = (place / num_ranks + 1) * num_ranks;
  wait_until([&] { return num_arrived >= needed; }, "a barrier");
}

namespace {

const GinPluginV13* old_table;

// The older table under the newer one's signatures. NCCL does it in the same way.
RmaPluginV14 adapted(const GinPluginV13& old) {
  old_table = &old;
  RmaPluginV14 table{};
  table.set_up = old.set_up;
  table.close = old.close;
  table.put = old.put;
  table.finish = old.finish;
  table.create_context = [](void* connection, RmaConfig* config, void** context) {
    GinConfig old_config{0, 0, config->num_contexts, 0, config->traffic_class};
    return old_table->create_context(connection, &old_config, context, nullptr);
  };
  table.register_memory = [](void* connection, void* data, size_t bytes, int type, uint64_t flags, void** memory) {
    void* device_memory = nullptr;
    return old_table->register_memory(connection, data, bytes, type, flags, memory, &device_memory);
  };
  table.put_signal = [](void* context, int index, uint64_t src_offset, void* src, size_t bytes, uint64_t dst_offset,
                        void* dst, uint32_t rank, uint64_t signal_offset, void* signal_memory, uint64_t value,
                        uint32_t op, bool, void** request) {
    return old_table->put_signal(context, index, src_offset, src, bytes, dst_offset, dst, rank, signal_offset,
                                 signal_memory, value, op, request);
  };
  return table;
}

}  // namespace

Plugin::Plugin(const char* path, bool is_old) {
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  expect(library != nullptr, library ? "" : dlerror());
  rma = static_cast<const RmaPluginV14*>(dlsym(library, "ncclRmaPlugin_v14"));
  const auto* gin = static_cast<const GinPluginV13*>(dlsym(library, "ncclGinPlugin_v13"));
  expect(rma != nullptr && gin != nullptr, "a table is missing");
  static RmaPluginV14 older = adapted(*gin);
  if (is_old) rma = &older;
}

Link::Link(const RmaPluginV14& plugin, Board& board, int num_ranks, int rank) : plugin_(plugin) {
  void* instance = nullptr;
  int num_devices = 0;
  void* listener = nullptr;
  expect(plugin.set_up.init(&instance, 7, log) == ncclSuccess && instance != nullptr, "init");
  expect(plugin.set_up.devices(&num_devices) == ncclSuccess && num_devices == 1, "devices");
  expect(plugin.set_up.listen(instance, 0, board.handles[rank], &listener) == ncclSuccess, "listen");
  board.barrier(num_ranks);
  std::vector<void*> addresses;
  for (auto& handle : board.handles) addresses.push_back(handle);
  const ncclResult_t result =
      plugin.set_up.connect(instance, addresses.data(), num_ranks, rank, listener, &connection_);
  expect(result == ncclSuccess, "connect: " + last_warning());
  expect(plugin.close.close_listener(listener) == ncclSuccess, "close_listener");
  expect(plugin.finish.finalize(instance) == ncclSuccess, "finalize");
}

Link::~Link() { plugin_.close.close_connection(connection_); }

void* Link::register_memory(uint64_t address, uint64_t bytes, int type, uint64_t flags) const {
  void* memory = nullptr;
  void* data = reinterpret_cast<void*>(address);
  expect(plugin_.register_memory(connection_, data, bytes, type, flags, &memory) == ncclSuccess, last_warning());
  return memory;
}

Proxy::Proxy(const RmaPluginV14& plugin, void* connection, int num_contexts)
    : plugin_(plugin), connection_(connection) {
  RmaConfig config{num_contexts, 0};
  expect(plugin.create_context(connection, &config, &context_) == ncclSuccess, "create_context");
  thread_ = std::thread([this] { run(); });
}

Proxy::~Proxy() {
  is_ending_ = true;
  thread_.join();
  plugin_.close.destroy_context(context_);
}

std::vector<Proxy::Ticket> Proxy::submit_together(const std::vector<Call>& calls) {
  const std::lock_guard lock(mutex_);
  if (!failure_.empty()) throw Failure(failure_);
  std::vector<Ticket> tickets;
  for (const Call& call : calls) {
    tickets.push_back(std::make_shared<std::atomic<bool>>(false));
    submitted_.push_back({call, tickets.back()});
  }
  return tickets;
}

void Proxy::run() {
  std::vector<Request> open;
  try {
    while (!is_ending_) advance(open);
  } catch (const Failure& failure) {
    const std::lock_guard lock(mutex_);
    failure_ = failure.what();
  }
}

// The order of calls is that of NCCL's proxy.
void Proxy::advance(std::vector<Request>& open) {
  for (Request& request : open) {
    int done = 0;
    expect(plugin_.finish.test(connection_, request.plugins, &done) == ncclSuccess, "test: " + last_warning());
    *request.ticket = done != 0;
  }
  std::erase_if(open, [](const Request& request) { return request.ticket->load(); });
  std::vector<Request> added;
  {
    const std::lock_guard lock(mutex_);
    added.swap(submitted_);
  }
  for (Request& request : added) {
    expect(request.call(context_, &request.plugins) == ncclSuccess, "a request: " + last_warning());
    open.push_back(request);
  }
  plugin_.finish.progress(context_);
  std::this_thread::sleep_for(kNap);
}

namespace {

Settings parse(int argc, char** argv) {
  Settings settings;
  settings.scenario = argv[2];
  const std::map<std::string, std::function<void(uint64_t)>> options{
      {"ranks", [&](uint64_t value) { settings.num_ranks = static_cast<int>(value); }},
      {"contexts", [&](uint64_t value) { settings.num_contexts = static_cast<int>(value); }},
      {"communicators", [&](uint64_t value) { settings.num_communicators = static_cast<int>(value); }},
      {"rounds", [&](uint64_t value) { settings.num_rounds = static_cast<int>(value); }},
      {"seed", [&](uint64_t value) { settings.seed = value; }},
      {"old_nccl", [&](uint64_t value) { settings.is_nccl_old = value; }},
      {"threads", [&](uint64_t value) { settings.are_threads = value; }},
      {"wrong_kernel", [&](uint64_t value) { settings.is_kernel_wrong = value; }},
      {"patience", [&](uint64_t value) { patience = std::chrono::seconds(value); }},
      {"hasty_driver", [&](uint64_t value) { settings.is_driver_hasty = value; }},
  };
  for (int i = 3; i < argc; ++i) {
    const std::string text = argv[i];
    const size_t equals = text.find('=');
    options.at(text.substr(0, equals))(std::stoull(text.substr(equals + 1)));
  }
  return settings;
}

void run_scenario(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  const std::map<std::string, decltype(&run_rounds)> scenarios{{"rounds", run_rounds},
                                                               {"burst", run_burst},
                                                               {"death", run_death},
                                                               {"leaving", run_leaving},
                                                               {"misuse", run_misuse}};
  scenarios.at(settings.scenario)(plugin, board, settings, rank);
}

// A rank, with a thread for each communicator.
bool run_rank(const Plugin& plugin, Board* boards, const Settings& settings, int rank) {
  const CUcontext device = fake::start_device({settings.seed * 100 + rank, 100, settings.is_driver_hasty});
  std::atomic<bool> is_good{true};
  std::vector<std::thread> threads;
  for (int communicator = 0; communicator < settings.num_communicators; ++communicator) {
    threads.emplace_back([&, communicator] {
      fake::set_current(device);
      try {
        run_scenario(plugin, boards[communicator], settings, rank);
      } catch (const Failure& failure) {
        std::fprintf(stderr, "rank %d, communicator %d: %s\n", rank, communicator, failure.what());
        is_good = false;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return is_good;
}

bool has_no_leftovers() {
  const std::string left = fake::leftovers();
  if (!left.empty()) std::fprintf(stderr, "not given back: %s\n", left.c_str());
  return left.empty();
}

// Sanitizers report when a process exits: no _exit here.
pid_t start_process(const Plugin& plugin, Board* boards, const Settings& settings, int rank) {
  const pid_t child = fork();
  if (child == 0) std::exit(run_rank(plugin, boards, settings, rank) && has_no_leftovers() ? 0 : 1);
  return child;
}

// When one rank fails, the others would wait for it.
bool run_processes(const Plugin& plugin, Board* boards, const Settings& settings) {
  std::vector<pid_t> children;
  for (int rank = 0; rank < settings.num_ranks; ++rank) {
    children.push_back(start_process(plugin, boards, settings, rank));
  }
  bool is_good = true;
  for (int status = 0; wait(&status) > 0;) {
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) continue;
    if (is_good) std::for_each(children.begin(), children.end(), [](pid_t child) { kill(child, SIGKILL); });
    is_good = false;
  }
  return is_good;
}

bool run_threads(const Plugin& plugin, Board* boards, const Settings& settings) {
  std::vector<std::thread> threads;
  for (int rank = 0; rank < settings.num_ranks; ++rank) {
    threads.emplace_back([&, rank] {
      if (!run_rank(plugin, boards, settings, rank)) std::_Exit(1);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return has_no_leftovers();
}

}  // namespace

int main(int argc, char** argv) {
  const Settings settings = parse(argc, argv);
  const Plugin plugin(argv[1], settings.is_nccl_old);
  Board* boards = Board::make(settings.num_communicators);
  const auto run = settings.are_threads ? run_threads : run_processes;
  return run(plugin, boards, settings) ? 0 : 1;
}
