// Netlink sockets and transactions of whole batches. The messages are made and read in
// src/network/netlink; this file moves bytes.
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "addon/async_op.h"
#include "addon/netlink_socket.h"
#include "addon/registration.h"
#include "sys/namespaces.h"

namespace addon {

namespace {

// Room for the answers of the largest batch: an acknowledgement counts about 800 bytes.
constexpr int kReceiveBufferBytes = 4 << 20;
constexpr size_t kMaxRepliesBytes = 64u << 20;
constexpr int kReplyTimeoutMs = 10'000;

void SetOption(int fd, int option) {
  // An older kernel without the option works, with less to say.
  const int one = 1;
  (void)::setsockopt(fd, SOL_NETLINK, option, &one, sizeof one);
}

sys::Result<void> SendBatch(int fd, const std::string& request) {
  struct sockaddr_nl kernel;
  memset(&kernel, 0, sizeof kernel);
  kernel.nl_family = AF_NETLINK;
  ssize_t sent;
  do {
    sent = ::sendto(fd, request.data(), request.size(), 0,
                    reinterpret_cast<struct sockaddr*>(&kernel), sizeof kernel);
  } while (sent < 0 && errno == EINTR);
  if (sent < 0) return sys::FailedWithErrno("sendto");
  return {};
}

// Counts the messages that end an answer: NLMSG_ERROR (also an acknowledgement) and NLMSG_DONE.
int CountEnds(const char* buffer, size_t bytes) {
  int ends = 0;
  size_t offset = 0;
  while (offset + sizeof(struct nlmsghdr) <= bytes) {
    struct nlmsghdr header;
    memcpy(&header, buffer + offset, sizeof header);
    if (header.nlmsg_len < sizeof header || offset + header.nlmsg_len > bytes) break;
    if (header.nlmsg_type == NLMSG_ERROR || header.nlmsg_type == NLMSG_DONE) ++ends;
    offset += NLMSG_ALIGN(header.nlmsg_len);
  }
  return ends;
}

// netlinkOpen(protocol, netns): netns is a borrowed namespace descriptor, or -1 for the
// daemon's own namespace.
Napi::Value NetlinkOpen(const Napi::CallbackInfo& info) {
  const int protocol = IntArgument(info, 0);
  const int netns = IntArgument(info, 1);
  if (netns < 0) {
    return SettleOnPool<sys::UniqueFd>(
        info.Env(), [protocol] { return OpenNetlink(protocol); }, FdToValue);
  }
  return SettleOnOwnThread<sys::UniqueFd>(
      info.Env(),
      [protocol, netns]() -> sys::Result<sys::UniqueFd> {
        sys::Result<void> joined = sys::setns(netns, CLONE_NEWNET);
        if (!joined) return joined.failure();
        return OpenNetlink(protocol);
      },
      FdToValue);
}

// netlinkTransact(fd, request, expectedEnds) -> Promise<Buffer>. One at a time per socket.
Napi::Value NetlinkTransact(const Napi::CallbackInfo& info) {
  const int fd = IntArgument(info, 0);
  Napi::Buffer<char> request = info[1].As<Napi::Buffer<char>>();
  const int expected_ends = IntArgument(info, 2);
  return SettleOnPool<std::string>(
      info.Env(),
      [fd, bytes = std::string(request.Data(), request.Length()), expected_ends] {
        return NetlinkExchange(fd, bytes, expected_ends);
      },
      [](Napi::Env env, std::string& replies) -> Napi::Value {
        return Napi::Buffer<char>::Copy(env, replies.data(), replies.size());
      });
}

}  // namespace

sys::Result<sys::UniqueFd> OpenNetlink(int protocol) {
  const int raw = ::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
  if (raw < 0) return sys::FailedWithErrno("socket");
  sys::UniqueFd fd(raw);
  SetOption(fd.get(), NETLINK_EXT_ACK);
  SetOption(fd.get(), NETLINK_CAP_ACK);
  SetOption(fd.get(), NETLINK_GET_STRICT_CHK);
  // FORCE goes beyond net.core.rmem_max and needs CAP_NET_ADMIN.
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &kReceiveBufferBytes,
                   sizeof kReceiveBufferBytes) < 0) {
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &kReceiveBufferBytes,
                       sizeof kReceiveBufferBytes);
  }
  struct sockaddr_nl self;
  memset(&self, 0, sizeof self);
  self.nl_family = AF_NETLINK;
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&self), sizeof self) < 0) {
    return sys::FailedWithErrno("bind");
  }
  return fd;
}

sys::Result<std::string> NetlinkExchange(int fd, const std::string& request, int expected_ends) {
  char buffer[64 * 1024];
  // What an earlier transaction that gave up has left behind.
  while (::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) > 0) {
  }
  sys::Result<void> sent = SendBatch(fd, request);
  if (!sent) return sent.failure();

  std::string replies;
  int ends = 0;
  while (ends < expected_ends) {
    const ssize_t received = ::recv(fd, buffer, sizeof buffer, MSG_DONTWAIT | MSG_TRUNC);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0 && errno == EAGAIN) {
      if (ends > 0) break;
      struct pollfd readable = {fd, POLLIN, 0};
      const int ready = ::poll(&readable, 1, kReplyTimeoutMs);
      if (ready < 0 && errno != EINTR) return sys::FailedWithErrno("poll");
      if (ready == 0) return sys::Failure{"recv", ETIMEDOUT};
      continue;
    }
    if (received < 0) return sys::FailedWithErrno("recv");
    if (static_cast<size_t>(received) > sizeof buffer) return sys::Failure{"recv", EMSGSIZE};
    ends += CountEnds(buffer, static_cast<size_t>(received));
    replies.append(buffer, static_cast<size_t>(received));
    if (replies.size() > kMaxRepliesBytes) return sys::Failure{"recv", EMSGSIZE};
  }
  return replies;
}

bool IsAllDone(const std::string& replies) {
  for (size_t offset = 0; offset + sizeof(struct nlmsghdr) + sizeof(int) <= replies.size();) {
    struct nlmsghdr header;
    memcpy(&header, replies.data() + offset, sizeof header);
    if (header.nlmsg_len < sizeof header || offset + header.nlmsg_len > replies.size()) return false;
    int error;
    memcpy(&error, replies.data() + offset + sizeof header, sizeof error);
    if (header.nlmsg_type == NLMSG_ERROR && error != 0) return false;
    offset += NLMSG_ALIGN(header.nlmsg_len);
  }
  return true;
}

void RegisterNetlink(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "netlinkOpen", NetlinkOpen);
  Export(env, exports, "netlinkTransact", NetlinkTransact);
}

}  // namespace addon
