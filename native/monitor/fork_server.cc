// The fork server. An execve and the start of a C library cost each monitor about a millisecond on a
// virtual machine, whose hypervisor takes over at every CPUID instruction; a fork of what has started
// already costs a tenth of that, and its pages are shared with all other monitors.
//
// Beside that it holds one thing that its monitors inherit: the device policy of most containers.
#include "monitor/fork_server.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <string>
#include <utility>

#include "monitor/monitor_main.h"
#include "runtime/container.h"
#include "sys/fork_request.h"
#include "sys/process.h"
#include "sys/unique_fd.h"

namespace monitor {
namespace {

constexpr int kServerFd = 3;
// Copies land above this before they move to a monitor's numbers, so that no source is overwritten.
constexpr int kScratchFd = 32;
constexpr int kFirstHeldFd = 4;
// Out of the way of the descriptors of a request.
constexpr int kDevicePolicyFd = 16;
constexpr const char* kHeldNames[] = {"net", "ipc", "uts", "shm", "user"};

using ForkFds = std::array<sys::UniqueFd, sys::kForkFdCount>;

struct Asked {
  sys::ForkRequest header{};
  ForkFds fds;
  std::string sandbox_id, socket_path;
};

// Gives the descriptors of a message their places. False where there are not as many as the mask says.
bool TakeFds(msghdr* message, Asked* asked) {
  size_t taken = 0;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd;
      memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      sys::UniqueFd owned(fd);
      while (taken < sys::kForkFdCount && (asked->header.fds >> taken & 1) == 0) ++taken;
      if (taken == sys::kForkFdCount) return false;
      asked->fds[taken++] = std::move(owned);
    }
  }
  while (taken < sys::kForkFdCount && (asked->header.fds >> taken & 1) == 0) ++taken;
  return taken == sys::kForkFdCount && (message->msg_flags & MSG_CTRUNC) == 0 && asked->header.fds >> sys::kForkFdCount == 0;
}

enum class Received { kRequest, kEnd, kNonsense };

// unix(7): descriptors are a barrier, so one call never takes more than one request.
Received Receive(Asked* asked) {
  char bytes[sys::kMaxForkRequest];
  alignas(cmsghdr) char control[CMSG_SPACE(sys::kForkFdCount * sizeof(int))];
  iovec into{bytes, sizeof bytes};
  msghdr message{};
  message.msg_iov = &into;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size;
  do {
    size = ::recvmsg(kServerFd, &message, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size <= 0) return Received::kEnd;
  if (static_cast<size_t>(size) <= sizeof asked->header) return Received::kNonsense;
  memcpy(&asked->header, bytes, sizeof asked->header);
  if (!TakeFds(&message, asked)) return Received::kNonsense;
  const std::string_view text(bytes + sizeof asked->header, static_cast<size_t>(size) - sizeof asked->header);
  const size_t id_end = text.find('\0');
  if (id_end == std::string_view::npos || text.find('\0', id_end + 1) != text.size() - 1) return Received::kNonsense;
  asked->sandbox_id = text.substr(0, id_end);
  asked->socket_path = text.substr(id_end + 1, text.size() - id_end - 2);
  return Received::kRequest;
}

// In the forked process: what was asked for becomes a monitor's usual descriptors, and the rest goes.
int BecomeMonitor(int argc, char** argv, int device_policy, Asked* asked) {
  std::array<int, sys::kForkFdCount> copies;
  for (size_t i = 0; i < copies.size(); ++i) {
    copies[i] = asked->fds[i].valid() ? ::fcntl(asked->fds[i].get(), F_DUPFD_CLOEXEC, kScratchFd) : -1;
    if (asked->fds[i].valid() && copies[i] < 0) return 1;
  }
  MonitorSettings settings;
  settings.sandbox_id = std::move(asked->sandbox_id);
  settings.socket_path = std::move(asked->socket_path);
  settings.control = kServerFd;
  settings.device_policy = device_policy;
  if (::dup3(copies[sys::kForkControl], kServerFd, O_CLOEXEC) < 0) return 1;
  if (copies[sys::kForkLog] >= 0 && ::dup2(copies[sys::kForkLog], STDERR_FILENO) < 0) return 1;
  for (int i = 0; i <= sys::kForkUser - sys::kForkNet; ++i) {
    const int copy = copies[static_cast<size_t>(sys::kForkNet + i)];
    if (copy < 0) continue;
    if (::dup3(copy, kFirstHeldFd + i, O_CLOEXEC) < 0) return 1;
    settings.held.push_back({kHeldNames[i], kFirstHeldFd + i});
  }
  // Their numbers are the monitor's own now, or are closed by it.
  for (sys::UniqueFd& fd : asked->fds) static_cast<void>(fd.release());
  return RunMonitor(argc, argv, std::move(settings));
}

}  // namespace

int ForkServerMain(int argc, char** argv) {
  static_cast<void>(sys::close_range(kServerFd + 1, ~0u, 0).ok());
  if (::fcntl(kServerFd, F_SETFD, FD_CLOEXEC) < 0) return 1;
  ::prctl(PR_SET_NAME, "minke-fork");
  if (::chdir("/") < 0) return 1;
  const int device_policy = argc > 1 ? runtime::ShareDevicePolicy(argv[1], kDevicePolicyFd) : -1;
  for (;;) {
    Asked asked;
    const Received received = Receive(&asked);
    if (received == Received::kEnd) return 0;
    if (received == Received::kNonsense || !asked.fds[sys::kForkControl].valid()) return 1;
    sys::CloneRequest request;
    request.flags = CLONE_PARENT;
    request.exit_signal = 0;
    request.cgroup = asked.fds[sys::kForkCgroup].valid() ? asked.fds[sys::kForkCgroup].get() : -1;
    auto pid = sys::clone3(request, nullptr);
    if (pid && *pid == 0) ::exit(BecomeMonitor(argc, argv, device_policy, &asked));
    const sys::ForkAnswer answer = {asked.header.sequence, pid ? *pid : -1, pid ? 0 : pid.failure().error};
    if (::send(kServerFd, &answer, sizeof answer, MSG_NOSIGNAL) != sizeof answer) return 0;
  }
}

}  // namespace monitor
