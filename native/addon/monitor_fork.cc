// Asking the fork server (native/monitor/fork_server.cc) for a monitor: one message, which does not
// block. Who is asked answers on the same socket, which src/monitor reads.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <string>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/fork_request.h"

namespace addon {
namespace {

sys::Result<void> Send(int server, const std::string& bytes, const int* fds, size_t count) {
  alignas(cmsghdr) char control[CMSG_SPACE(sys::kForkFdCount * sizeof(int))] = {};
  iovec from{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &from;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(count * sizeof(int));
  cmsghdr* part = CMSG_FIRSTHDR(&message);
  part->cmsg_level = SOL_SOCKET;
  part->cmsg_type = SCM_RIGHTS;
  part->cmsg_len = CMSG_LEN(count * sizeof(int));
  memcpy(CMSG_DATA(part), fds, count * sizeof(int));
  const ssize_t sent = ::sendmsg(server, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent < 0) return sys::FailedWithErrno("sendmsg");
  // Half a request would be read as a whole one.
  if (static_cast<size_t>(sent) != bytes.size()) return sys::Failure{"sendmsg", EMSGSIZE};
  return {};
}

// forkMonitor(server, sequence, sandboxId, socketPath, cgroup, log, net, ipc, uts, shm, user)
//   -> our end of the control connection. Descriptors are borrowed, -1 means none.
Napi::Value ForkMonitor(const Napi::CallbackInfo& info) {
  const int server = IntArgument(info, 0);
  sys::ForkRequest header{info[1].As<Napi::Number>().Uint32Value(), 0};
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
    return Throw(info.Env(), sys::FailedWithErrno("socketpair"));
  }
  sys::UniqueFd ours(pair[0]);
  const sys::UniqueFd theirs(pair[1]);
  int fds[sys::kForkFdCount];
  size_t count = 0;
  for (int i = 0; i < sys::kForkFdCount; ++i) {
    const int fd = i == sys::kForkControl ? theirs.get() : IntArgument(info, 3 + static_cast<size_t>(i));
    if (fd < 0) continue;
    header.fds |= 1u << i;
    fds[count++] = fd;
  }
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  for (const size_t argument : {2, 3}) bytes.append(StringArgument(info, argument).c_str()).push_back('\0');
  if (bytes.size() > sys::kMaxForkRequest) return Throw(info.Env(), {"sendmsg", ENAMETOOLONG});
  const auto sent = Send(server, bytes, fds, count);
  if (!sent) return Throw(info.Env(), sent.failure());
  return Napi::Number::New(info.Env(), ours.release());
}

}  // namespace

void RegisterMonitorFork(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "forkMonitor", ForkMonitor);
}

}  // namespace addon
