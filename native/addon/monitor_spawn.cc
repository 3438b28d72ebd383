// Starting a monitor: clone3 with CLONE_VM|CLONE_VFORK|CLONE_PIDFD, born in its cgroup, then
// execveat of the sealed memfd.
//
// A fork of the daemon would copy its page tables (1.8 ms); this takes about 0.1 ms, under load
// as long as the child waits for a processor. Only the calling thread sleeps meanwhile, which
// is one of its own: the event loop goes on. The monitor finds its descriptors at fixed numbers:
// 3 control, 4 net, 5 ipc, 6 uts, 7 shm, 8 user; everything else is closed by the exec.
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"
#include "sys/process.h"

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ULL
#endif

namespace addon {
namespace {

constexpr int kFdCount = 6;
// Copies land above this before they move to their numbers, so that no source is overwritten.
constexpr int kScratchFd = 16;
constexpr size_t kStackBytes = 64 * 1024;

struct ChildPlan {
  int executable;
  int null_fd;
  int log_fd;
  int fds[kFdCount];  // -1: absent
  char* const* argv;
  char* const* envp;
  sigset_t mask;
  // Written by the child in the shared memory, read by the parent after it has resumed.
  volatile int error;
  const char* volatile op;
};

// SIGNAL-SAFE. Runs in the parent's memory while the parent sleeps: raw system calls on the
// plan only.
int Fail(ChildPlan* plan, const char* op) {
  plan->error = errno;
  plan->op = op;
  return 127;
}

int RunChild(void* argument) {
  auto* plan = static_cast<ChildPlan*>(argument);
  const int sources[3 + kFdCount] = {plan->null_fd, plan->null_fd, plan->log_fd,
                                     plan->fds[0],  plan->fds[1],  plan->fds[2],
                                     plan->fds[3],  plan->fds[4],  plan->fds[5]};
  int copies[3 + kFdCount];
  for (int i = 0; i < 3 + kFdCount; ++i) {
    copies[i] = -1;
    if (sources[i] < 0) continue;
    copies[i] = static_cast<int>(
        ::syscall(SYS_fcntl, sources[i], F_DUPFD_CLOEXEC, kScratchFd));
    if (copies[i] < 0) return Fail(plan, "fcntl");
  }
  const int executable = static_cast<int>(
      ::syscall(SYS_fcntl, plan->executable, F_DUPFD_CLOEXEC, kScratchFd));
  if (executable < 0) return Fail(plan, "fcntl");
  // From here every descriptor goes with the exec, also one that some library opened without
  // close-on-exec; dup3 without O_CLOEXEC then keeps exactly ours.
  if (::syscall(SYS_close_range, 0u, ~0u, CLOSE_RANGE_CLOEXEC) < 0) {
    return Fail(plan, "close_range");
  }
  for (int i = 0; i < 3 + kFdCount; ++i) {
    if (copies[i] >= 0 && ::syscall(SYS_dup3, copies[i], i, 0) < 0) return Fail(plan, "dup3");
  }
  ::syscall(SYS_setsid);
  // Ignored signals (Node ignores SIGPIPE) stay ignored over clone and exec: undo them. A zeroed
  // kernel sigaction is SIG_DFL; SIGKILL and SIGSTOP answer EINVAL.
  const unsigned long default_action[4] = {0, 0, 0, 0};
  for (int signal = 1; signal < _NSIG; ++signal) {
    ::syscall(SYS_rt_sigaction, signal, default_action, nullptr, _NSIG / 8);
  }
  ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &plan->mask, nullptr, _NSIG / 8);
  ::syscall(SYS_execveat, executable, "", plan->argv, plan->envp, AT_EMPTY_PATH);
  return Fail(plan, "execveat");
}

struct Stack {
  Stack() {
    void* mapped = ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    memory = mapped == MAP_FAILED ? nullptr : mapped;
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() {
    if (memory != nullptr) ::munmap(memory, kStackBytes);
  }
  void* memory;
};

struct Spawned {
  pid_t pid = -1;
  sys::UniqueFd pidfd;
  sys::UniqueFd control;
};

struct SpawnRequest {
  int executable, cgroup, log_fd;
  int fds[kFdCount];
  std::vector<std::string> args;
};

// All signals are blocked around the clone: a handler of the daemon must not run in the child,
// which shares its memory. CLONE_CLEAR_SIGHAND (Linux 5.5) drops the handlers.
sys::Result<pid_t> CloneMonitor(const SpawnRequest& request, ChildPlan* plan,
                                sys::UniqueFd* pidfd) {
  Stack stack;
  if (stack.memory == nullptr) return sys::Failure{"mmap", ENOMEM};
  sys::CloneRequest clone;
  clone.flags = CLONE_CLEAR_SIGHAND;
  clone.cgroup = request.cgroup;
  sigset_t all, before;
  sigfillset(&all);
  sigemptyset(&plan->mask);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  sys::Result<pid_t> pid =
      sys::clone3_vfork(clone, pidfd, stack.memory, kStackBytes, RunChild, plan);
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return pid;
}

sys::Result<Spawned> SpawnMonitor(const SpawnRequest& request) {
  Spawned spawned;
  sys::UniqueFd theirs;
  if (request.fds[0] < 0) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0) {
      return sys::FailedWithErrno("socketpair");
    }
    spawned.control.reset(pair[0]);
    theirs.reset(pair[1]);
  }
  sys::Result<sys::UniqueFd> null_fd = sys::open_at(AT_FDCWD, "/dev/null", O_RDWR);
  if (!null_fd) return null_fd.failure();

  std::vector<char*> argv;
  for (const std::string& arg : request.args) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  char* const envp[] = {nullptr};

  ChildPlan plan;
  memset(&plan, 0, sizeof plan);
  plan.executable = request.executable;
  plan.null_fd = null_fd->get();
  plan.log_fd = request.log_fd >= 0 ? request.log_fd : null_fd->get();
  memcpy(plan.fds, request.fds, sizeof plan.fds);
  if (theirs.valid()) plan.fds[0] = theirs.get();
  plan.argv = argv.data();
  plan.envp = envp;

  sys::Result<pid_t> pid = CloneMonitor(request, &plan, &spawned.pidfd);
  if (!pid) return pid.failure();
  spawned.pid = *pid;
  if (plan.error != 0) {
    (void)sys::waitid_pidfd(spawned.pidfd.get(), 0, nullptr);
    return sys::Failure{plan.op, plan.error};
  }
  return spawned;
}

// spawnMonitor(executable, cgroup, log, control, net, ipc, uts, shm, user, ...args)
//   -> Promise<[pid, pidfd, control]>
// Descriptors are borrowed, -1 means none; control -1: a socket pair is made and our end returned.
Napi::Value SpawnMonitorCall(const Napi::CallbackInfo& info) {
  SpawnRequest request;
  request.executable = IntArgument(info, 0);
  request.cgroup = IntArgument(info, 1);
  request.log_fd = IntArgument(info, 2);
  for (int i = 0; i < kFdCount; ++i) request.fds[i] = IntArgument(info, 3 + static_cast<size_t>(i));
  for (size_t i = 3 + kFdCount; i < info.Length(); ++i) {
    request.args.push_back(StringArgument(info, i));
  }
  return SettleOnOwnThread<Spawned>(
      info.Env(), [request] { return SpawnMonitor(request); },
      [](Napi::Env env, Spawned& spawned) -> Napi::Value {
        Napi::Array result = Napi::Array::New(env, 3);
        result.Set(0u, Napi::Number::New(env, spawned.pid));
        result.Set(1u, Napi::Number::New(env, spawned.pidfd.release()));
        result.Set(2u, Napi::Number::New(env, spawned.control.release()));
        return result;
      });
}

}  // namespace

void RegisterMonitorSpawn(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "spawnMonitor", SpawnMonitorCall);
}

}  // namespace addon
