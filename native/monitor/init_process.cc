#include "monitor/init_process.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "runtime/user_namespace.h"
#include "sys/process.h"

namespace monitor {
namespace {

struct InitStart {
  int program, ready;
  bool is_in_user;  // in a user namespace: only its own ids can own what is made
};

bool BecomeNamespaceRoot() {
  return ::syscall(SYS_setgroups, 0, nullptr) == 0 && ::syscall(SYS_setresgid, 0, 0, 0) == 0 &&
         ::syscall(SYS_setresuid, 0, 0, 0) == 0;
}

// In the child. Descriptor 3 is where minke-init says that it is ready.
void RunInit(const void* argument) {
  const auto& [program, ready, is_in_user] = *static_cast<const InitStart*>(argument);
  // Above 3, so that neither stands in the other's way.
  const int program_copy = ::fcntl(program, F_DUPFD_CLOEXEC, 10);
  const int ready_copy = ::fcntl(ready, F_DUPFD_CLOEXEC, 10);
  char name[] = "minke-init";
  char* const arguments[] = {name, nullptr};
  char* const environment[] = {nullptr};
  int32_t error = EBADF;
  if (is_in_user && !BecomeNamespaceRoot()) {
    error = errno;
  } else if (program_copy >= 0 && ready_copy >= 0 && ::dup2(ready_copy, 3) == 3) {
    static_cast<void>(sys::close_range(4, ~0u, CLOSE_RANGE_CLOEXEC).ok());
    error = sys::execveat(program_copy, "", arguments, environment, AT_EMPTY_PATH).error;
  }
  static_cast<void>(!::write(ready, &error, sizeof error));
  ::_exit(127);
}

}  // namespace

sys::Result<void> InitProcess::Start(const std::string& cgroup, int userns) {
  const sys::UniqueFd directory(::open(cgroup.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory.valid()) return sys::FailedWithErrno("open");
  const sys::UniqueFd program(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  if (!program.valid()) return sys::FailedWithErrno("open");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) < 0) return sys::FailedWithErrno("pipe2");
  ready_.reset(ends[0]);
  const sys::UniqueFd child_end(ends[1]);
  sys::CloneRequest clone;
  clone.flags = CLONE_NEWPID | CLONE_NEWNS;
  clone.cgroup = directory.get();
  const auto fail = [this](const sys::Failure& failure) {
    ready_.reset();
    return failure;
  };
  const InitStart start{program.get(), child_end.get(), userns >= 0};
  auto pid = userns >= 0 ? runtime::CloneInUserNamespace(userns, clone, RunInit, &start, &pidfd_)
                         : sys::clone3(clone, &pidfd_);
  if (!pid) return fail(pid.failure());
  if (*pid == 0) RunInit(&start);
  pid_ = *pid;
  if (!ready_watch_.Start(ready_.get(), EPOLLIN)) {
    Kill();
    return fail(sys::FailedWithErrno("epoll_ctl"));
  }
  return {};
}

void InitProcess::OnReadyFd(uint32_t /*events*/) {
  int32_t error = 0;
  // Without a word it was killed on the way.
  if (::read(ready_.get(), &error, sizeof error) != sizeof error) error = ECHILD;
  ready_watch_.Stop();
  ready_.reset();
  if (error != 0) Kill();
  owner_->OnInitReady(error);
}

void InitProcess::Kill() {
  if (pid_ > 0) static_cast<void>(sys::pidfd_send_signal(pidfd_.get(), SIGKILL).ok());
}

void InitProcess::End() {
  if (pid_ <= 0) return;
  Kill();
  // SIGKILL of a process without children that could hold it up.
  static_cast<void>(sys::waitid_pidfd(pidfd_.get(), 0, nullptr).ok());
  NoteExit();
}

void InitProcess::NoteExit() {
  pid_ = 0;
  pidfd_.reset();
}

}  // namespace monitor
