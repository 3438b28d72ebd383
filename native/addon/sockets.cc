// Sockets: who is at the other end, a connection made inside a pod's network namespace, what that says of its
// links, and whether a port of the host is free.
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"
#include "sys/namespaces.h"

namespace addon {
namespace {

constexpr size_t kMaxNetDevicesBytes = 4 << 20;

struct Address {
  struct sockaddr_storage storage;
  socklen_t length;
};

// text: a literal IPv4 or IPv6 address.
sys::Result<Address> ParseAddress(const std::string& text, uint16_t port) {
  Address address;
  memset(&address, 0, sizeof address);
  auto* v4 = reinterpret_cast<struct sockaddr_in*>(&address.storage);
  auto* v6 = reinterpret_cast<struct sockaddr_in6*>(&address.storage);
  if (::inet_pton(AF_INET, text.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(port);
    address.length = sizeof *v4;
    return address;
  }
  memset(&address, 0, sizeof address);
  if (::inet_pton(AF_INET6, text.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(port);
    address.length = sizeof *v6;
    return address;
  }
  return sys::Failure{"inet_pton", EINVAL};
}

// On loopback the answer is immediate unless the listener's queue is full: hence the time-out.
sys::Result<sys::UniqueFd> Connect(const std::string& host, uint16_t port, int timeout_ms) {
  sys::Result<Address> address = ParseAddress(host, port);
  if (!address) return address.failure();
  const int raw = ::socket(address->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (raw < 0) return sys::FailedWithErrno("socket");
  sys::UniqueFd fd(raw);
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address->storage),
                address->length) == 0) {
    return fd;
  }
  if (errno != EINPROGRESS) return sys::FailedWithErrno("connect");
  struct pollfd writable = {fd.get(), POLLOUT, 0};
  int ready;
  do {
    ready = ::poll(&writable, 1, timeout_ms);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return sys::FailedWithErrno("poll");
  if (ready == 0) return sys::Failure{"connect", ETIMEDOUT};
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length) < 0) {
    return sys::FailedWithErrno("getsockopt");
  }
  if (error != 0) return sys::Failure{"connect", error};
  return fd;
}

// dialInNetns(netns, port, timeoutMs) -> Promise<fd>: 127.0.0.1, then ::1. netns is borrowed.
// The IPv4 failure is the one told: a pod without IPv6 would otherwise always say so.
Napi::Value DialInNetns(const Napi::CallbackInfo& info) {
  // A copy of our own, because the caller may close its descriptor before the thread runs.
  auto netns = std::make_shared<sys::UniqueFd>(::fcntl(IntArgument(info, 0), F_DUPFD_CLOEXEC, 3));
  if (!netns->valid()) return Throw(info.Env(), sys::FailedWithErrno("fcntl"));
  const auto port = static_cast<uint16_t>(IntArgument(info, 1));
  const int timeout_ms = IntArgument(info, 2);
  return SettleOnOwnThread<sys::UniqueFd>(
      info.Env(),
      [netns, port, timeout_ms]() -> sys::Result<sys::UniqueFd> {
        sys::Result<void> joined = sys::setns(netns->get(), CLONE_NEWNET);
        if (!joined) return joined.failure();
        sys::Result<sys::UniqueFd> v4 = Connect("127.0.0.1", port, timeout_ms);
        if (v4) return v4;
        sys::Result<sys::UniqueFd> v6 = Connect("::1", port, timeout_ms);
        if (v6) return v6;
        return v4.failure();
      },
      FdToValue);
}

// netDevicesOf(netnsPath) -> Promise<string>: /proc/net/dev as a process in there would read it.
Napi::Value NetDevicesOf(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  return SettleOnOwnThread<std::string>(
      info.Env(),
      [path]() -> sys::Result<std::string> {
        sys::Result<sys::UniqueFd> netns = sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY);
        if (!netns) return netns.failure();
        sys::Result<void> joined = sys::setns(netns->get(), CLONE_NEWNET);
        if (!joined) return joined.failure();
        return sys::ReadFileAt(AT_FDCWD, "/proc/thread-self/net/dev", kMaxNetDevicesBytes);
      },
      [](Napi::Env env, std::string& text) -> Napi::Value { return Napi::String::New(env, text); });
}

// bindProbe(protocol, address, port): binds and closes at once. protocol: IPPROTO_*.
// SO_REUSEADDR on TCP lets only listeners collide, not connections in TIME_WAIT: socket(7).
Napi::Value BindProbe(const Napi::CallbackInfo& info) {
  const int protocol = IntArgument(info, 0);
  const auto port = static_cast<uint16_t>(IntArgument(info, 2));
  sys::Result<Address> address = ParseAddress(StringArgument(info, 1), port);
  if (!address) return Throw(info.Env(), address.failure());
  const int family = address->storage.ss_family;
  const int type = protocol == IPPROTO_UDP ? SOCK_DGRAM : SOCK_STREAM;
  const int raw = ::socket(family, type | SOCK_CLOEXEC, protocol);
  if (raw < 0) return Throw(info.Env(), sys::FailedWithErrno("socket"));
  sys::UniqueFd fd(raw);
  const int one = 1;
  if (protocol == IPPROTO_TCP) {
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  }
  if (family == AF_INET6) {
    (void)::setsockopt(fd.get(), IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
  }
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&address->storage), address->length) < 0) {
    return Throw(info.Env(), sys::FailedWithErrno("bind"));
  }
  if (protocol == IPPROTO_TCP && ::listen(fd.get(), 1) < 0) {
    return Throw(info.Env(), sys::FailedWithErrno("listen"));
  }
  return info.Env().Undefined();
}

}  // namespace

void RegisterSockets(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "dialInNetns", DialInNetns);
  Export(env, exports, "netDevicesOf", NetDevicesOf);
  Export(env, exports, "bindProbe", BindProbe);
}

}  // namespace addon
