// SPDX-License-Identifier: Apache-2.0
// Signals on their way to a rank: shared memory that the rank owns, with a ring for each sender. Only the owner of
// memory changes the signals in it, since memory that NCCL makes for signals cannot be mapped by others.
#pragma once

#include <cstdint>

#include "gin_loopback/socket.hpp"

namespace nccl_ep::loopback {

// To be added to the 64-bit word at `offset` of the owner's registered memory number `memory`.
struct Signal {
  uint64_t memory;
  uint64_t offset;
  uint64_t value;
};

// One process's view of a rank's mailbox. A sender's ring has one thread at each end at a time.
class Mailbox {
 public:
  static Mailbox create(int num_senders);
  // Somebody else's; the file is the mailbox.
  static Mailbox open(File file, int num_senders);
  Mailbox(Mailbox&& other) noexcept;
  ~Mailbox();

  const File& file() const { return file_; }

  // Returns false when the sender's ring is full. What was written to memory before is seen by who takes the signal.
  bool post(int sender, const Signal& signal) noexcept;
  bool take(int sender, Signal* signal) noexcept;

  // The owner says that it will take no more.
  void close() noexcept;
  bool is_closed() const noexcept;

 private:
  struct Header;
  struct Ring;
  Mailbox(File file, Header* header, size_t bytes) : file_(std::move(file)), header_(header), bytes_(bytes) {}
  Ring& ring(int sender) const noexcept;

  File file_;
  Header* header_;  // the rings follow
  size_t bytes_;
};

}  // namespace nccl_ep::loopback
