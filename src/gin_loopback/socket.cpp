// SPDX-License-Identifier: Apache-2.0
#include "gin_loopback/socket.hpp"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "gin_loopback/log.hpp"

namespace nccl_ep::loopback {
namespace {

constexpr int kBacklog = 4096;

// A system call again, for as long as only a signal has interrupted it.
template <class Call>
auto uninterrupted(Call&& call) {
  decltype(call()) result;
  do {
    result = call();
  } while (result < 0 && errno == EINTR);
  return result;
}

struct Address {
  sockaddr_un name = {};
  socklen_t bytes = 0;
};

Address abstract_address(const std::string& name) {
  Address address;
  address.name.sun_family = AF_UNIX;
  std::memcpy(address.name.sun_path + 1, name.data(), name.size());  // a leading 0 makes it abstract
  address.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

File open_socket() {
  File file(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!file) fail_with_errno("socket");
  return file;
}

// Room for one file descriptor beside a message.
union Attachment {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

}  // namespace

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

Socket Socket::listen_at(const std::string& name) {
  Socket socket(open_socket());
  const Address address = abstract_address(name);
  if (::bind(socket.file_.fd(), reinterpret_cast<const sockaddr*>(&address.name), address.bytes) != 0) {
    fail_with_errno("bind");
  }
  if (::listen(socket.file_.fd(), kBacklog) != 0) fail_with_errno("listen");
  return socket;
}

Socket Socket::connect_to(const std::string& name) {
  Socket socket(open_socket());
  const Address address = abstract_address(name);
  const auto connect = [&] {
    return ::connect(socket.file_.fd(), reinterpret_cast<const sockaddr*>(&address.name), address.bytes);
  };
  if (uninterrupted(connect) != 0) {
    throw Error(ncclRemoteError, std::string("nobody listens there (") + std::strerror(errno) +
                                     "): the process has ended, or is in another network namespace");
  }
  socket.check_other_end();
  return socket;
}

Socket Socket::accept() const {
  Socket socket(File(uninterrupted([&] { return ::accept4(file_.fd(), nullptr, nullptr, SOCK_CLOEXEC); })));
  if (!socket.file_) fail_with_errno("accept");
  socket.check_other_end();
  return socket;
}

// Any user of the host can see abstract names and connect to them.
void Socket::check_other_end() const {
  ucred other = {};
  socklen_t bytes = sizeof other;
  if (::getsockopt(file_.fd(), SOL_SOCKET, SO_PEERCRED, &other, &bytes) != 0) fail_with_errno("getsockopt");
  if (other.uid != ::geteuid()) {
    throw Error(ncclSystemError, "process " + std::to_string(other.pid) + " of user " + std::to_string(other.uid) +
                                     " is at the other end, expected one of user " + std::to_string(::geteuid()));
  }
}

void Socket::await(int seconds, const std::string& what) const {
  pollfd waited{file_.fd(), POLLIN, 0};
  const int ready = uninterrupted([&] { return ::poll(&waited, 1, seconds * 1000); });
  if (ready < 0) fail_with_errno("poll");
  if (ready == 0) throw Error(ncclRemoteError, what + " did not come within " + std::to_string(seconds) + " s");
}

void Socket::send(const void* message, size_t bytes, const File& attached) const {
  iovec content{const_cast<void*>(message), bytes};
  Attachment attachment = {};
  msghdr header = {};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  if (attached) {
    header.msg_control = attachment.bytes;
    header.msg_controllen = sizeof attachment.bytes;
    cmsghdr* control = CMSG_FIRSTHDR(&header);
    control->cmsg_level = SOL_SOCKET;
    control->cmsg_type = SCM_RIGHTS;
    control->cmsg_len = CMSG_LEN(sizeof(int));
    const int fd = attached.fd();
    std::memcpy(CMSG_DATA(control), &fd, sizeof fd);
  }
  if (uninterrupted([&] { return ::sendmsg(file_.fd(), &header, MSG_NOSIGNAL); }) < 0) {
    throw Error(ncclRemoteError, std::string("the other end is gone (") + std::strerror(errno) + ")");
  }
}

File Socket::receive(void* message, size_t bytes) const {
  iovec content{message, bytes};
  Attachment attachment = {};
  msghdr header = {};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  header.msg_control = attachment.bytes;
  header.msg_controllen = sizeof attachment.bytes;
  const ssize_t received = uninterrupted([&] { return ::recvmsg(file_.fd(), &header, MSG_CMSG_CLOEXEC); });
  File attached;
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr; control = CMSG_NXTHDR(&header, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(control), sizeof fd);
    attached = File(fd);
  }
  if (received <= 0) throw Error(ncclRemoteError, "the other end is gone");
  if (received != static_cast<ssize_t>(bytes) || (header.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
    throw Error(ncclSystemError, "received a message of " + std::to_string(received) + " bytes, expected " +
                                     std::to_string(bytes) + "; or there are too many open files");
  }
  return attached;
}

bool Socket::is_hung_up() const noexcept {
  pollfd looked_at{file_.fd(), POLLRDHUP, 0};
  return ::poll(&looked_at, 1, 0) > 0 && (looked_at.revents & (POLLRDHUP | POLLHUP | POLLERR));
}

}  // namespace nccl_ep::loopback
