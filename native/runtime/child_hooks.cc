// Hooks that run inside the container's namespaces: createContainer and startContainer.
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "runtime/child_calls.h"
#include "runtime/child_rootfs.h"

namespace runtime::child {
namespace {

constexpr int kEndedBySignal = 0xFFFF;  // ChildReport.detail

// fork(2) without libc's handlers: clone with nothing shared.
long Fork() { return syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0); }

[[noreturn]] void ExecHook(const ChildHook& hook, int state) {
  syscall(SYS_setsid);  // leads a process group, which a timeout ends whole
  syscall(SYS_lseek, state, 0, SEEK_SET);
  if (dup3(state, 0, 0) < 0) _exit(126);
  const char* const fallback[] = {hook.path, nullptr};
  const char* const* args = hook.args[0] != nullptr ? hook.args : fallback;
  execve(hook.path, const_cast<char* const*>(args), const_cast<char* const*>(hook.env));
  _exit(127);
}

int WaitFor(pid_t pid) {
  siginfo_t status;
  for (;;) {
    memset(&status, 0, sizeof status);
    if (syscall(SYS_waitid, P_PID, pid, &status, WEXITED, nullptr) == 0) break;
    if (errno != EINTR) FailErrno(Call::waitid_);
  }
  return status.si_code == CLD_EXITED ? status.si_status : kEndedBySignal;
}

}  // namespace

void RunChildHooks(const ChildHook* hooks, size_t count, int state, size_t first_index) {
  for (size_t i = 0; i < count; i++) {
    At(Step::kHook, static_cast<int32_t>(first_index + i));
    const long pid = Fork();
    if (pid < 0) FailErrno(Call::clone_);
    if (pid == 0) ExecHook(hooks[i], state);
    if (hooks[i].timeout_s > 0) {
      const long pidfd = syscall(SYS_pidfd_open, pid, 0);
      struct pollfd ended = {static_cast<int>(pidfd), POLLIN, 0};
      const struct timespec limit = {hooks[i].timeout_s, 0};
      if (pidfd >= 0 && syscall(SYS_ppoll, &ended, 1, &limit, nullptr, 0) == 0) {
        syscall(SYS_kill, -pid, SIGKILL);
        WaitFor(static_cast<pid_t>(pid));
        Fail(Call::waitid_, ETIMEDOUT);
      }
      close(static_cast<int>(pidfd));
    }
    position.detail = static_cast<uint16_t>(WaitFor(static_cast<pid_t>(pid)));
    if (position.detail != 0) Fail(Call::waitid_, ECANCELED);
  }
}

}  // namespace runtime::child
