// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/connection.hpp"

#include <sys/random.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {
namespace {

constexpr int kNumLanes = 4;
constexpr int kMeetingSeconds = 120;

struct Hello {
  int rank;
  int num_ranks;
};

std::string unique_name() {
  uint64_t numbers[2];
  if (::getrandom(numbers, sizeof numbers, 0) != sizeof numbers) fail_with_errno("getrandom");
  char name[kHandleBytes];
  std::snprintf(name, sizeof name, "nccl_ep_loopback.%d.%016llx%016llx", ::getpid(),
                static_cast<unsigned long long>(numbers[0]), static_cast<unsigned long long>(numbers[1]));
  return name;
}

std::string name_in(const void* handle) {
  const char* text = static_cast<const char*>(handle);
  return std::string(text, ::strnlen(text, kHandleBytes - 1));
}

}  // namespace

Listener::Listener(void* handle) {
  const std::string name = unique_name();
  socket_ = Socket::listen_at(name);
  std::memset(handle, 0, kHandleBytes);
  std::memcpy(handle, name.data(), name.size());
}

Connection::Connection(const Listener& listener, void* const handles[], int num_ranks, int rank)
    : rank_(rank),
      num_ranks_(num_ranks),
      cuda_context_(current_context()),
      peers_(num_ranks),
      faults_(FaultOptions::from_environment(), rank) {
  peers_[rank].mailbox.emplace(Mailbox::create(num_ranks));
  meet(listener, handles);
  signal_writer_ = SignalWriter::open();
  for (int lane = 0; lane < kNumLanes; ++lane) lanes_.push_back(Lane::open());
}

Connection::~Connection() {
  const ContextScope scope(cuda_context_);
  peers_[rank_].mailbox->close();
  lanes_.clear();
  signal_writer_.reset();
  memories_.clear();
}

template <class Body>
auto Connection::with_peer(int peer, Body&& body) {
  try {
    return body();
  } catch (const Error& error) {
    throw Error(error.code(),
                "rank " + std::to_string(rank_) + ", about rank " + std::to_string(peer) + ": " + error.what());
  }
}

// The higher rank of every two connects to the lower one. Nobody waits before having connected to all that it should.
void Connection::meet(const Listener& listener, void* const handles[]) {
  const Hello hello{rank_, num_ranks_};
  const File& own_mailbox = peers_[rank_].mailbox->file();
  for (int lower = 0; lower < rank_; ++lower) {
    with_peer(lower, [&] {
      peers_[lower].socket = Socket::connect_to(name_in(handles[lower]));
      peers_[lower].socket.send(&hello, sizeof hello, own_mailbox);
    });
  }
  for (int num_higher = num_ranks_ - 1 - rank_; num_higher > 0; --num_higher) {
    listener.socket().await(kMeetingSeconds, std::to_string(num_higher) + " ranks above rank " + std::to_string(rank_));
    Socket socket = listener.socket().accept();
    const int higher = welcome(socket);
    with_peer(higher, [&] { socket.send(&hello, sizeof hello, own_mailbox); });
    peers_[higher].socket = std::move(socket);
  }
  for (int lower = 0; lower < rank_; ++lower) {
    with_peer(lower, [&] { welcome(peers_[lower].socket); });
  }
}

// Returns who is at the other end.
int Connection::welcome(const Socket& socket) {
  Hello hello = {};
  socket.await(kMeetingSeconds, "a rank's greeting");
  File mailbox = socket.receive(&hello, sizeof hello);
  if (!mailbox || hello.num_ranks != num_ranks_ || hello.rank < 0 || hello.rank >= num_ranks_ ||
      peers_[hello.rank].mailbox) {
    throw Error(ncclInternalError, "a greeting of rank " + std::to_string(hello.rank) + " of " +
                                       std::to_string(hello.num_ranks) + ", expected another rank of " +
                                       std::to_string(num_ranks_));
  }
  peers_[hello.rank].mailbox.emplace(Mailbox::open(std::move(mailbox), num_ranks_));
  return hello.rank;
}

Memory& Connection::register_memory(void* data, size_t bytes, int type, uint64_t flags) {
  const ContextScope scope(cuda_context_);
  const bool is_host = type == kHostPointer;
  auto made = std::make_unique<Memory>(rank_, num_ranks_, reinterpret_cast<uintptr_t>(data), bytes, is_host,
                                       (flags & kSignalsNeverReset) != 0);
  MemoryOffer offer{bytes};
  const File file = is_host ? File() : export_memory(reinterpret_cast<CUdeviceptr>(data), &offer);

  // Known here before peers know of it, since their signals may come at once. All ranks register in the same order.
  Memory& memory = *made;
  {
    const auto locked = lock();
    memory.set_id(num_registered_++);
    memories_.emplace(memory.id(), std::move(made));
  }
  if (is_host) return memory;
  try {
    exchange(memory, offer, file);
  } catch (...) {
    deregister(memory);
    throw;
  }
  return memory;
}

void Connection::exchange(Memory& memory, const MemoryOffer& offer, const File& file) {
  for (int peer = 0; peer < num_ranks_; ++peer) {
    if (peer != rank_) with_peer(peer, [&] { peers_[peer].socket.send(&offer, sizeof offer, file); });
  }
  for (int peer = 0; peer < num_ranks_; ++peer) {
    if (peer == rank_) continue;
    with_peer(peer, [&] {
      MemoryOffer theirs;
      const File their_file = peers_[peer].socket.receive(&theirs, sizeof theirs);
      memory.map_peer(peer, theirs, their_file);
    });
  }
}

void Connection::deregister(const Memory& memory) {
  std::unique_ptr<Memory> removed;
  {
    const auto locked = lock();
    const auto found = memories_.find(memory.id());
    removed = std::move(found->second);
    memories_.erase(found);
  }
  const ContextScope scope(cuda_context_);
  for (const auto& lane : lanes_) lane->synchronize();
  signal_writer_->synchronize();
  removed.reset();
}

void Connection::progress() {
  for (const auto& lane : lanes_) lane->collect();
  Signal signal = {};
  for (int sender = 0; sender < num_ranks_; ++sender) {
    while (peers_[rank_].mailbox->take(sender, &signal)) {
      const auto memory = memories_.find(signal.memory);
      if (memory != memories_.end()) signal_writer_->add(*memory->second, signal.offset, signal.value);
    }
  }
}

bool Connection::post(uint32_t rank, const Signal& signal) {
  Peer& peer = peers_[rank];
  return peer.mailbox->post(rank_, signal) || peer.mailbox->is_closed() || peer.socket.is_hung_up();
}

bool Connection::has_lost_a_rank() {
  bool is_lost = false;
  for (int rank = 0; rank < num_ranks_; ++rank) {
    Peer& peer = peers_[rank];
    // In this order: who leaves closes the mailbox first.
    if (!peer.socket.is_hung_up() || peer.mailbox->is_closed()) continue;
    is_lost = true;
    if (!peer.is_reported_lost) warn("the process of rank " + std::to_string(rank) + " has ended");
    peer.is_reported_lost = true;
  }
  return is_lost;
}

}  // namespace nccl_ep::loopback
