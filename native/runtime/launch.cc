#include "runtime/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/child_report.h"
#include "runtime/describe_report.h"
#include "runtime/hooks.h"
#include "runtime/outside.h"
#include "runtime/seccomp.h"
#include "sys/files.h"
#include "sys/namespaces.h"
#include "sys/process.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace runtime {
namespace {

// One message of the child; 0 = end of file, which is a successful execve.
ssize_t Receive(int report, ChildReport* message, sys::UniqueFd* fd, int flags) {
  struct iovec part = {message, sizeof *message};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct msghdr header;
  memset(&header, 0, sizeof header);
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t got;
  do {
    got = ::recvmsg(report, &header, MSG_CMSG_CLOEXEC | flags);
  } while (got < 0 && errno == EINTR);
  // A child that dies with a byte of ours unread resets the connection (unix(7)).
  if (got < 0 && errno == ECONNRESET) return 0;
  if (got <= 0) return got;
  struct cmsghdr* rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS) {
    int raw;
    memcpy(&raw, CMSG_DATA(rights), sizeof raw);
    fd->reset(raw);
  }
  if (got != sizeof *message || message->version != kChildReportVersion) {
    errno = EPROTO;
    return -1;
  }
  return got;
}

bool ChangeOutside(Launch* launch, Problem* problem) {
  const Spec& spec = launch->state->plan.spec;
  if (spec.net_devices.empty() && !spec.intel_rdt.present) return true;
  launch->outside = std::make_shared<Outside>();
  if (!MoveNetDevices(spec.net_devices, launch->pid, launch->outside.get(), problem)) return false;
  return !spec.intel_rdt.present || EnterRdtGroups(spec.intel_rdt, FindResctrl(), launch->state->id, launch->pid,
                                                   launch->outside.get(), problem);
}

bool HandleReport(Launch* launch, const ChildReport& report, sys::UniqueFd fd, bool* done,
                  Problem* problem) {
  *done = false;
  switch (report.kind) {
    case ReportKind::kTerminal:
      launch->terminal = std::move(fd);
      return true;
    case ReportKind::kSeccomp:
      return SendSeccompListener(launch->state->plan.spec.seccomp, launch->state->id, launch->pid,
                                 launch->state->bundle, fd.get(), problem);
    case ReportKind::kNeedsHooks: {
      if (launch->ended) return true;
      const Spec& spec = launch->state->plan.spec;
      if (!ChangeOutside(launch, problem)) return false;
      const HookState state{launch->state->id, launch->state->bundle, launch->pid, "creating",
                            &spec};
      if (launch->in_steps) return BeginHooks(state, &launch->hooks, &launch->hooks_process, problem);
      if (!RunHooks(spec.prestart, "prestart", state, problem) ||
          !RunHooks(spec.create_runtime, "createRuntime", state, problem)) {
        return false;
      }
      SendByte(launch->report.get());
      return true;
    }
    case ReportKind::kExec:
      launch->at_exec = true;
      return true;
    case ReportKind::kReady:
      launch->waiting = true;
      *done = true;
      return true;
    case ReportKind::kFailed:
      break;
  }
  *problem = DescribeReport(report, launch->state->plan);
  return false;
}

// The end of the report without a word before it: the child was killed on its way.
bool FailEnded(const Launch& launch, Problem* problem) {
  auto status = sys::waitid_pidfd(launch.pidfd.get(), WNOWAIT, nullptr);
  problem->step = "wait";
  problem->message = "the process ended before its command was executed";
  if (status && status->signal != 0) {
    problem->message += ": signal " + std::to_string(status->signal);
  }
  return false;
}

// The hooks have ended: the child goes on where they went well.
bool TakeHooks(Launch* launch, Problem* problem) {
  const sys::UniqueFd outcome = std::move(launch->hooks);
  launch->hooks_process.reset();
  if (!ReadHooksOutcome(outcome.get(), problem)) return false;
  SendByte(launch->report.get());
  return true;
}

}  // namespace

sys::Result<ReportPair> MakeReportPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0) {
    return sys::FailedWithErrno("socketpair");
  }
  return ReportPair{sys::UniqueFd(fds[0]), sys::UniqueFd(fds[1])};
}

void SendByte(int report) {
  const char byte = 1;
  while (::send(report, &byte, 1, MSG_NOSIGNAL) < 0 && errno == EINTR) {
  }
}

void Abandon(Launch* launch) {
  if (!launch->pidfd.valid()) return;
  (void)sys::pidfd_send_signal(launch->pidfd.get(), SIGKILL).ok();
  (void)sys::waitid_pidfd(launch->pidfd.get(), 0, nullptr).ok();
  *launch = Launch();
}

ChildNamespaces::~ChildNamespaces() {
  if (own_pid_.valid()) (void)sys::setns(own_pid_.get(), CLONE_NEWPID).ok();
  if (own_time_.valid()) (void)sys::setns(own_time_.get(), CLONE_NEWTIME).ok();
}

sys::Result<void> ChildNamespaces::JoinPid(int target) {
  auto own = sys::open_at(AT_FDCWD, "/proc/self/ns/pid_for_children", O_RDONLY);
  if (!own) own = sys::open_at(AT_FDCWD, "/proc/self/ns/pid", O_RDONLY);
  if (!own) return own.failure();
  own_pid_ = std::move(*own);
  return sys::setns(target, CLONE_NEWPID);
}

sys::Result<void> ChildNamespaces::NewTime(const Spec& spec) {
  auto own = sys::open_at(AT_FDCWD, "/proc/self/ns/time", O_RDONLY);
  if (!own) return own.failure();
  own_time_ = std::move(*own);
  if (auto made = sys::unshare(CLONE_NEWTIME); !made) return made;
  std::string text;
  for (const auto& [name, offset] : {std::pair{"monotonic", spec.monotonic},
                                     std::pair{"boottime", spec.boottime}}) {
    if (!offset.present) continue;
    text += std::string(name) + " " + std::to_string(offset.seconds) + " " +
            std::to_string(offset.nanoseconds) + "\n";
  }
  if (text.empty()) return {};
  return sys::WriteFileAt(AT_FDCWD, "/proc/self/timens_offsets", text);
}

bool FinishLaunch(Launch* launch, Problem* problem) {
  launch->waiting = false;
  launch->unfinished = false;
  const bool may_wait = !launch->in_steps || launch->ended;
  if (launch->hooks.valid() && !TakeHooks(launch, problem)) {
    UndoOutside(launch);
    launch->report.reset();
    return false;
  }
  for (;;) {
    ChildReport report;
    sys::UniqueFd fd;
    const ssize_t got = Receive(launch->report.get(), &report, &fd, may_wait ? 0 : MSG_DONTWAIT);
    if (got < 0 && !may_wait && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      launch->unfinished = true;
      return true;
    }
    if (got < 0) return FailStep(Step::kSetup, "read report", sys::FailedWithErrno("recvmsg"), problem);
    if (got == 0) {
      launch->report.reset();
      launch->state.reset();
      if (launch->at_exec) return true;
      UndoOutside(launch);
      return FailEnded(*launch, problem);
    }
    bool done;
    if (!HandleReport(launch, report, std::move(fd), &done, problem)) {
      UndoOutside(launch);
      launch->report.reset();
      return false;
    }
    if (done) return true;
    if (launch->hooks.valid()) {
      launch->unfinished = true;
      return true;
    }
  }
}

void EndHooks(Launch* launch) {
  if (launch->hooks_process.valid()) (void)sys::pidfd_send_signal(launch->hooks_process.get(), SIGKILL).ok();
  launch->hooks_process.reset();
  launch->hooks.reset();
}

std::vector<std::string> RdtGroupsOf(const Launch& launch) {
  return launch.outside == nullptr ? std::vector<std::string>() : launch.outside->groups;
}

void UndoOutside(Launch* launch) {
  if (launch->outside == nullptr) return;
  ReturnNetDevices(launch->outside.get());
  RemoveRdtGroups(launch->outside->groups);
  launch->outside.reset();
}

bool ReleaseStart(Launch* launch, Problem* problem) {
  if (!launch->waiting || !launch->report.valid()) {
    return FailStep(Step::kWait, "release", {"send", EINVAL}, problem);
  }
  SendByte(launch->report.get());
  launch->waiting = false;
  return true;
}


}  // namespace runtime
