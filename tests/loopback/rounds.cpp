// SPDX-License-Identifier: Apache-2.0
// Rounds of everything that kernels can ask of the network, between all ranks on all contexts, with the data looked at
// as soon as a signal says that it is there, and the sources overwritten as soon as a request is done.
#include <algorithm>
#include <cstring>
#include <random>

#include "fake_driver.hpp"
#include "ranks.hpp"

using namespace nccl_ep::loopback;

namespace {

constexpr uint64_t kMostBytes = 300'032;  // more than a lane's bounce buffer holds
constexpr uint64_t kUsualBytes = 3'000;
constexpr uint64_t kShownBytes = 512;  // that others get
constexpr uint64_t kVaSum = 5;         // with the value, and as much again
constexpr uint64_t kWeakSum = 3;

// What one rank has for another, on one context: the same places at the sender, in its outbox, and at the receiver, in
// its inbox.
enum Place : uint64_t {
  kFirst = 0,  // puts that a strong signal follows
  kSecond = kFirst + kMostBytes,
  kThird = kSecond + kUsualBytes,
  kBundled = kThird + kUsualBytes,  // the put that a weak signal rides on
  kValue = kBundled + kUsualBytes,  // a value, and behind it a signal in the window
  kVaSignal = kValue + 8,
  kGotten = kVaSignal + 8,
  kPlaceBytes = kGotten + kShownBytes,  // a multiple of 8, for the signals
};

enum SignalKind : uint64_t { kStrong, kWeak, kNumKinds };

// Bytes that tell who sent what and when.
class Message {
 public:
  Message(int round, int src, int dst, int context, uint64_t place) {
    std::seed_seq seeds{round, src, dst, context, static_cast<int>(place)};
    std::mt19937 random(seeds);
    start_ = random();
    bytes_ = 1 + random() % kUsualBytes;
    if (place == kFirst && round % 8 == 1) bytes_ += kMostBytes - kUsualBytes;
    if (place == kValue) bytes_ = 1 + random() % 8;
    if (place == kGotten) bytes_ = kShownBytes;
  }
  uint64_t bytes() const { return bytes_; }
  void write(uint64_t address) const {
    uint8_t* data = reinterpret_cast<uint8_t*>(address);
    for (uint64_t i = 0; i < bytes_; ++i) data[i] = at(i);
  }
  bool is_at(uint64_t address) const {
    const uint8_t* data = reinterpret_cast<const uint8_t*>(address);
    for (uint64_t i = 0; i < bytes_; ++i) {
      if (data[i] != at(i)) return false;
    }
    return true;
  }

 private:
  uint8_t at(uint64_t i) const { return static_cast<uint8_t>(start_ + i * 31 + (i >> 8) * 5 + (i >> 16) * 3); }
  uint32_t start_;
  uint64_t bytes_;
};

// The kernel of one rank: it asks, waits and looks; and the memory that it works with.
class Kernel {
 public:
  Kernel(const Plugin& plugin, Board& board, const Settings& settings, int rank)
      : plugin_(*plugin.rma),
        board_(board),
        settings_(settings),
        rank_(rank),
        num_pairs_(settings.num_ranks * settings.num_contexts),
        random_(settings.seed * 1000 + rank),
        link_(plugin_, board, settings.num_ranks, rank),
        shown_at_(2 * num_pairs_ * kPlaceBytes),
        window_(fake::allocate(shown_at_ + kShownBytes, true)),
        signals_(fake::allocate((num_pairs_ * kNumKinds + settings.num_contexts) * 8, false)),
        values_(num_pairs_) {
    window_memory_ = link_.register_memory(window_, shown_at_ + kShownBytes, kCudaPointer, 0);
    signal_memory_ = link_.register_memory(signals_, (num_pairs_ * kNumKinds + settings.num_contexts) * 8, kCudaPointer,
                                           1 | kSignalsNeverReset);
    value_memory_ =
        link_.register_memory(reinterpret_cast<uint64_t>(values_.data()), values_.size() * 8, kHostPointer, 0);
    proxy_ = std::make_unique<Proxy>(plugin_, link_.connection(), settings.num_contexts);
    getter_ = std::make_unique<Proxy>(plugin_, link_.connection(), settings.num_contexts);
  }
  ~Kernel() {
    proxy_.reset();
    getter_.reset();
    for (void* memory : {window_memory_, signal_memory_, value_memory_}) {
      plugin_.close.deregister(link_.connection(), memory);
    }
    fake::deallocate(window_);
    fake::deallocate(signals_);
  }

  void run_round(int round);

 private:
  uint64_t pair(int peer, int context) const { return peer * settings_.num_contexts + context; }
  uint64_t outbox(int peer, int context) const { return pair(peer, context) * kPlaceBytes; }
  uint64_t inbox(int peer, int context) const { return (num_pairs_ + pair(peer, context)) * kPlaceBytes; }
  // Of what `src` sends on a context: offset in the memory of signals.
  uint64_t signal(int src, int context, SignalKind kind) const { return (pair(src, context) * kNumKinds + kind) * 8; }
  uint64_t shared_signal(int context) const { return (num_pairs_ * kNumKinds + context) * 8; }
  uint64_t read(uint64_t address) const {
    return __atomic_load_n(reinterpret_cast<const uint64_t*>(address), __ATOMIC_ACQUIRE);
  }

  struct Sent {
    Proxy::Ticket ticket;
    uint64_t src;  // in the window
    uint64_t bytes;
  };
  struct At {
    uint64_t memory_offset;
    void* memory;
    uint64_t value;
    SignalOp op;
    bool is_strong;
  };

  void ask(int round, int peer, int context, std::vector<Sent>& sent);
  Sent put(int round, int peer, int context, Place place, const At* at = nullptr);
  void put_value(int round, int peer, int context);
  void send_signal(int peer, int context, At at);
  Sent get(int round, int peer, int context);
  void overwrite_sources(std::vector<Sent>& sent);
  void look(int round, int src, int context);

  const RmaPluginV14& plugin_;
  Board& board_;
  const Settings& settings_;
  int rank_;
  uint64_t num_pairs_;
  std::mt19937 random_;
  Link link_;
  uint64_t shown_at_;
  uint64_t window_;
  uint64_t signals_;
  std::vector<uint64_t> values_;  // of requests that bring their data along
  void* window_memory_ = nullptr;
  void* signal_memory_ = nullptr;
  void* value_memory_ = nullptr;
  std::unique_ptr<Proxy> proxy_;
  std::unique_ptr<Proxy> getter_;  // another set of contexts of the same connection
};

Kernel::Sent Kernel::put(int round, int peer, int context, Place place, const At* at) {
  const Message message(round, rank_, peer, context, place);
  const uint64_t src = outbox(peer, context) + place;
  const uint64_t dst = inbox(rank_, context) + place;
  message.write(window_ + src);
  const uint64_t bytes = message.bytes();
  const auto call = [=, this, at = at ? *at : At{}, has_signal = at != nullptr](void* contexts, void** request) {
    if (!has_signal) {
      return plugin_.put(contexts, context, src, window_memory_, bytes, dst, window_memory_, peer, request);
    }
    return plugin_.put_signal(contexts, context, src, window_memory_, bytes, dst, window_memory_, peer,
                              at.memory_offset, at.memory, at.value, at.op, at.is_strong, request);
  };
  return {proxy_->submit(call), src, bytes};
}

void Kernel::send_signal(int peer, int context, At at) {
  proxy_->submit([=, this](void* contexts, void** request) {
    return plugin_.put_signal(contexts, context, 0, nullptr, 0, 0, nullptr, peer, at.memory_offset, at.memory, at.value,
                              at.op, at.is_strong, request);
  });
}

// As NCCL does it: the value lies in host memory that is used again when the request is done.
void Kernel::put_value(int round, int peer, int context) {
  const Message message(round, rank_, peer, context, kValue);
  const uint64_t src = pair(peer, context) * 8;
  message.write(reinterpret_cast<uint64_t>(values_.data()) + src);
  const uint64_t dst = inbox(rank_, context);
  proxy_->submit([=, this](void* contexts, void** request) {
    return plugin_.put_signal(contexts, context, src, value_memory_, message.bytes(), dst + kValue, window_memory_,
                              peer, dst + kVaSignal, window_memory_, kVaSum, kSignalAdd, true, request);
  });
}

Kernel::Sent Kernel::get(int round, int peer, int context) {
  const uint64_t local = inbox(peer, context) + kGotten;
  const auto call = [=, this](void* contexts, void** request) {
    return plugin_.finish.get(contexts, context, shown_at_, window_memory_, kShownBytes, local, window_memory_, peer,
                              request);
  };
  (void)round;
  return {getter_->submit(call), local, 0};
}

void Kernel::ask(int round, int peer, int context, std::vector<Sent>& sent) {
  const At strong{signal(rank_, context, kStrong), signal_memory_, 0, kSignalInc, !settings_.is_kernel_wrong};
  const At weak{signal(rank_, context, kWeak), signal_memory_, kWeakSum, kSignalAdd, false};
  sent.push_back(put(round, peer, context, kFirst));
  sent.push_back(put(round, peer, context, kSecond));
  if (random_() % 2) {  // the signal of its own, or on the last put
    sent.push_back(put(round, peer, context, kThird));
    send_signal(peer, context, strong);
  } else {
    sent.push_back(put(round, peer, context, kThird, &strong));
  }
  sent.push_back(put(round, peer, context, kBundled, &weak));
  put_value(round, peer, context);
  send_signal(peer, context, {inbox(rank_, context) + kVaSignal, window_memory_, kVaSum, kSignalAdd, true});
  send_signal(peer, context, {shared_signal(context), signal_memory_, uint64_t(rank_) + 1, kSignalAdd, false});
}

void Kernel::overwrite_sources(std::vector<Sent>& sent) {
  const auto overwrite_what_is_done = [&] {
    std::erase_if(sent, [this](const Sent& one) {
      if (!*one.ticket) return false;
      std::memset(reinterpret_cast<void*>(window_ + one.src), 0xee, one.bytes);
      return true;
    });
    return sent.empty();
  };
  wait_until(overwrite_what_is_done, "requests are done");
}

void Kernel::look(int round, int src, int context) {
  const std::string where = "round " + std::to_string(round) + ", from rank " + std::to_string(src) + ", context " +
                            std::to_string(context) + ": ";
  const uint64_t from = inbox(src, context);
  const auto check = [&](Place place, const char* what) {
    expect(Message(round, src, rank_, context, place).is_at(window_ + from + place), where + "wrong " + what);
  };
  const uint64_t num_rounds = round + 1;
  wait_until([&] { return read(signals_ + signal(src, context, kStrong)) >= num_rounds; }, where + "strong signal");
  check(kFirst, "first put");
  check(kSecond, "second put");
  check(kThird, "third put");
  wait_until([&] { return read(signals_ + signal(src, context, kWeak)) >= kWeakSum * num_rounds; },
             where + "weak signal");
  check(kBundled, "put of the weak signal");
  const uint64_t va_signal = window_ + from + kVaSignal;
  wait_until([&] { return read(va_signal) == 2 * kVaSum; }, where + "signal in a window");
  check(kValue, "value");
  __atomic_store_n(reinterpret_cast<uint64_t*>(va_signal), 0, __ATOMIC_RELEASE);  // reset
}

void Kernel::run_round(int round) {
  Message(round, rank_, 0, 0, kGotten).write(window_ + shown_at_);
  board_.barrier(settings_.num_ranks);
  std::vector<std::pair<int, int>> pairs;
  for (int peer = 0; peer < settings_.num_ranks; ++peer) {
    for (int context = 0; context < settings_.num_contexts; ++context) pairs.emplace_back(peer, context);
  }
  std::shuffle(pairs.begin(), pairs.end(), random_);
  std::vector<Sent> sent;
  std::vector<Sent> gets;
  for (const auto& [peer, context] : pairs) {
    ask(round, peer, context, sent);
    gets.push_back(get(round, peer, context));
  }
  overwrite_sources(sent);
  std::shuffle(pairs.begin(), pairs.end(), random_);
  for (const auto& [src, context] : pairs) look(round, src, context);
  overwrite_sources(gets);
  for (const auto& [peer, context] : pairs) {
    const uint64_t got = window_ + inbox(peer, context) + kGotten;
    expect(Message(round, peer, 0, 0, kGotten).is_at(got), "wrong get from rank " + std::to_string(peer));
  }
  const uint64_t of_a_round = settings_.num_ranks * (settings_.num_ranks + 1) / 2;
  for (int context = 0; context < settings_.num_contexts; ++context) {
    wait_until([&] { return read(signals_ + shared_signal(context)) == of_a_round * (round + 1); }, "shared signal");
  }
  board_.barrier(settings_.num_ranks);
}

}  // namespace

void run_rounds(const Plugin& plugin, Board& board, const Settings& settings, int rank) {
  Kernel kernel(plugin, board, settings, rank);
  for (int round = 0; round < settings.num_rounds; ++round) kernel.run_round(round);
  board.barrier(settings.num_ranks);
}
