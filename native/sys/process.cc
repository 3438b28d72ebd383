#include "sys/process.h"

#include <errno.h>
#include <linux/sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif
#ifndef P_PIDFD
#define P_PIDFD 3
#endif

namespace sys {
namespace {

// struct clone_args up to `cgroup` (CLONE_ARGS_SIZE_VER2); ours, so that older headers do.
struct CloneArgs {
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
      set_tid_size, cgroup;
};
static_assert(sizeof(CloneArgs) == 88);

CloneArgs ToArgs(const CloneRequest& request, int* pidfd) {
  CloneArgs args;
  memset(&args, 0, sizeof args);
  args.flags = request.flags;
  args.exit_signal = static_cast<uint64_t>(request.exit_signal);
  if (pidfd != nullptr) {
    args.flags |= CLONE_PIDFD;
    args.pidfd = reinterpret_cast<uint64_t>(pidfd);
  }
  if (request.cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<uint64_t>(request.cgroup);
  }
  return args;
}

// The system call made in assembly: with CLONE_VM the child must not return through a
// frame of the parent's stack, which syscall(2)'s wrapper would do.
long CloneOnStack(CloneArgs* args, int (*run)(void*), void* argument) {
#if defined(__x86_64__)
  long result;
  register int (*run_register)(void*) asm("r8") = run;
  register void* argument_register asm("r9") = argument;
  asm volatile(
      "syscall\n"
      "test %%rax, %%rax\n"
      "jnz 1f\n"
      "xor %%ebp, %%ebp\n"
      "mov %%r9, %%rdi\n"
      "call *%%r8\n"
      "mov %%eax, %%edi\n"
      "mov %[exit_number], %%eax\n"
      "syscall\n"
      "hlt\n"
      "1:\n"
      : "=a"(result)
      : "a"(SYS_clone3), "D"(args), "S"(sizeof *args), "r"(run_register), "r"(argument_register),
        [exit_number] "i"(SYS_exit_group)
      : "rcx", "r11", "memory", "cc");
  return result;
#elif defined(__aarch64__)
  register long number asm("x8") = SYS_clone3;
  register long result asm("x0") = reinterpret_cast<long>(args);
  register long size asm("x1") = sizeof *args;
  register int (*run_register)(void*) asm("x9") = run;
  register void* argument_register asm("x10") = argument;
  asm volatile(
      "svc #0\n"
      "cbnz x0, 1f\n"
      "mov x29, xzr\n"
      "mov x0, x10\n"
      "blr x9\n"
      "mov x8, %[exit_number]\n"
      "svc #0\n"
      "1:\n"
      : "+r"(result)
      : "r"(number), "r"(size), "r"(run_register), "r"(argument_register),
        [exit_number] "i"(SYS_exit_group)
      : "x30", "memory", "cc");
  return result;
#else
#error "clone3_vfork: unknown architecture"
#endif
}

}  // namespace

Result<pid_t> clone3(const CloneRequest& request, UniqueFd* pidfd) {
  int raw_pidfd = -1;
  CloneArgs args = ToArgs(request, pidfd != nullptr ? &raw_pidfd : nullptr);
  const long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid < 0) return FailedWithErrno("clone3");
  if (pid > 0 && pidfd != nullptr) pidfd->reset(raw_pidfd);
  return static_cast<pid_t>(pid);
}

namespace {

Result<pid_t> CloneWithMemory(const CloneRequest& request, uint64_t flags, UniqueFd* pidfd,
                              void* stack, size_t stack_bytes, int (*run)(void*), void* argument) {
  int raw_pidfd = -1;
  CloneArgs args = ToArgs(request, pidfd != nullptr ? &raw_pidfd : nullptr);
  args.flags |= CLONE_VM | flags;
  args.stack = reinterpret_cast<uint64_t>(stack);
  args.stack_size = stack_bytes;
  const long pid = CloneOnStack(&args, run, argument);
  if (pid < 0) return Failure{"clone3", static_cast<int>(-pid)};
  if (pidfd != nullptr) pidfd->reset(raw_pidfd);
  return static_cast<pid_t>(pid);
}

}  // namespace

Result<pid_t> clone3_vfork(const CloneRequest& request, UniqueFd* pidfd, void* stack,
                           size_t stack_bytes, int (*run)(void*), void* argument) {
  return CloneWithMemory(request, CLONE_VFORK, pidfd, stack, stack_bytes, run, argument);
}

Result<pid_t> clone3_shared(const CloneRequest& request, UniqueFd* pidfd, void* stack,
                            size_t stack_bytes, int (*run)(void*), void* argument) {
  return CloneWithMemory(request, 0, pidfd, stack, stack_bytes, run, argument);
}

Result<UniqueFd> pidfd_open(pid_t pid) {
  const long fd = ::syscall(SYS_pidfd_open, pid, 0u);
  if (fd < 0) return FailedWithErrno("pidfd_open");
  return UniqueFd(static_cast<int>(fd));
}

Result<void> pidfd_send_signal(int pidfd, int signal) {
  if (::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0u) < 0) {
    return FailedWithErrno("pidfd_send_signal");
  }
  return {};
}

Result<ExitStatus> waitid_pidfd(int pidfd, int options, struct rusage* rusage) {
  siginfo_t info;
  long result;
  do {
    memset(&info, 0, sizeof info);
    result = ::syscall(SYS_waitid, P_PIDFD, pidfd, &info, WEXITED | options, rusage);
  } while (result < 0 && errno == EINTR);
  if (result < 0) return FailedWithErrno("waitid");
  ExitStatus status;
  if (info.si_pid == 0) return status;
  status.exited = true;
  if (info.si_code == CLD_EXITED) {
    status.code = info.si_status;
  } else {
    status.signal = info.si_status;
    status.core_dumped = info.si_code == CLD_DUMPED;
  }
  return status;
}

Result<void> close_range(unsigned first, unsigned last, unsigned flags) {
  if (::syscall(SYS_close_range, first, last, flags) < 0) return FailedWithErrno("close_range");
  return {};
}

Failure execveat(int dirfd, const char* path, char* const argv[], char* const envp[], int flags) {
  ::syscall(SYS_execveat, dirfd, path, argv, envp, flags);
  return FailedWithErrno("execveat");
}

}  // namespace sys
