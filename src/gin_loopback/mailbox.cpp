// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/mailbox.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <utility>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {

static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

// Both are all zero in the beginning.
struct alignas(64) Mailbox::Header {
  std::atomic<bool> closed;
};
struct Mailbox::Ring {
  static constexpr uint64_t kSlots = 4096;
  alignas(64) std::atomic<uint64_t> num_posted;
  alignas(64) std::atomic<uint64_t> num_taken;
  alignas(64) Signal slots[kSlots];
};

Mailbox Mailbox::create(int num_senders) {
  File file(::memfd_create("nccl_ep_loopback", MFD_CLOEXEC));
  if (!file) fail_with_errno("memfd_create");
  const size_t bytes = sizeof(Header) + num_senders * sizeof(Ring);
  if (::ftruncate(file.fd(), static_cast<off_t>(bytes)) != 0) fail_with_errno("ftruncate");
  return open(std::move(file), num_senders);
}

Mailbox Mailbox::open(File file, int num_senders) {
  const size_t bytes = sizeof(Header) + num_senders * sizeof(Ring);
  void* mapped = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file.fd(), 0);
  if (mapped == MAP_FAILED) fail_with_errno("mmap");
  return Mailbox(std::move(file), static_cast<Header*>(mapped), bytes);
}

Mailbox::Mailbox(Mailbox&& other) noexcept
    : file_(std::move(other.file_)), header_(std::exchange(other.header_, nullptr)), bytes_(other.bytes_) {}

Mailbox::~Mailbox() {
  if (header_ != nullptr) ::munmap(header_, bytes_);
}

Mailbox::Ring& Mailbox::ring(int sender) const noexcept { return reinterpret_cast<Ring*>(header_ + 1)[sender]; }

bool Mailbox::post(int sender, const Signal& signal) noexcept {
  Ring& ring = this->ring(sender);
  const uint64_t posted = ring.num_posted.load(std::memory_order_relaxed);
  if (posted - ring.num_taken.load(std::memory_order_acquire) == Ring::kSlots) return false;
  ring.slots[posted % Ring::kSlots] = signal;
  ring.num_posted.store(posted + 1, std::memory_order_release);
  return true;
}

bool Mailbox::take(int sender, Signal* signal) noexcept {
  Ring& ring = this->ring(sender);
  const uint64_t taken = ring.num_taken.load(std::memory_order_relaxed);
  if (taken == ring.num_posted.load(std::memory_order_acquire)) return false;
  *signal = ring.slots[taken % Ring::kSlots];
  ring.num_taken.store(taken + 1, std::memory_order_release);
  return true;
}

void Mailbox::close() noexcept { header_->closed.store(true, std::memory_order_release); }
bool Mailbox::is_closed() const noexcept { return header_->closed.load(std::memory_order_acquire); }

}  // namespace nccl_ep::loopback
