// SPDX-License-Identifier: Apache-2.0
// Messages between two ranks of a host, and file descriptors with them: a Unix socket that keeps messages apart.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

namespace nccl_ep::loopback {

// Owns a file descriptor.
class File {
 public:
  File() = default;
  explicit File(int fd) : fd_(fd) {}
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  File& operator=(File&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~File();

  explicit operator bool() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

// The calls throw Error(ncclSystemError) when the system refuses, Error(ncclRemoteError) when the other end is gone.
class Socket {
 public:
  Socket() = default;

  // The name is one of Linux's abstract ones: nothing appears in the file system, nothing is left behind.
  static Socket listen_at(const std::string& name);
  static Socket connect_to(const std::string& name);
  Socket accept() const;

  // Waits until something has arrived, or throws Error(ncclRemoteError): `what` did not come in time.
  void await(int seconds, const std::string& what) const;

  void send(const void* message, size_t bytes, const File& attached = {}) const;
  // The message has exactly this size. Returns what was attached, if anything. Waits as long as the sender lives.
  File receive(void* message, size_t bytes) const;

  // Whether the other end is closed, as it is when its process has died. Does not wait.
  bool is_hung_up() const noexcept;

 private:
  explicit Socket(File file) : file_(std::move(file)) {}
  void check_other_end() const;

  File file_;
};

}  // namespace nccl_ep::loopback
