// Processes: making, signalling, waiting, replacing. One wrapper per system call.
//
// Knows nothing of containers. The fork-like clone3() is for single-threaded programs
// (monitor, minke-oci); a threaded caller (Node) uses clone3_vfork(), whose child may
// only make raw system calls.
#pragma once

#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/types.h>
#include <sys/wait.h>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace sys {

struct CloneRequest {
  uint64_t flags = 0;         // CLONE_NEW*, CLONE_PARENT; CLONE_PIDFD and CLONE_INTO_CGROUP are added as needed
  int exit_signal = SIGCHLD;  // 0 where CLONE_PARENT is set, or for nothing at its end
  int cgroup = -1;            // borrowed directory of a cgroup2 cgroup: the child is born in it (Linux 5.7)
};

// Forks with clone3(2). Returns 0 in the child, which shares nothing with the caller.
//
// pidfd  receives the child's pidfd in the parent; may be null. Untouched in the child.
//
// Expect EAGAIN (pids limit), EACCES and EBUSY (cgroup has controllers enabled below it,
// cgroups(7), "no internal processes"), EOPNOTSUPP (threaded cgroup), ENOSPC (namespace limit).
// Needs Linux 5.5, and 5.7 for `cgroup`.
Result<pid_t> clone3(const CloneRequest& request, UniqueFd* pidfd);

// vfork with clone3(2): the child borrows the caller's memory (CLONE_VM|CLONE_VFORK), runs
// `run(argument)` on `stack` and the caller sleeps until it execs or exits. `run` ends with
// execve or returns a status for _exit.
//
// stack, stack_bytes  lowest address and size; 16-byte aligned, 16 KiB is plenty
//
// SAFETY: `run` must not call anything of libc that keeps state per thread (errno is the
// caller's own and may be clobbered; setxid functions broadcast): raw system calls only.
// THREADS: any. Signals should be blocked around the call; the child unblocks them.
Result<pid_t> clone3_vfork(const CloneRequest& request, UniqueFd* pidfd, void* stack,
                           size_t stack_bytes, int (*run)(void*), void* argument);

// The same without the sleep: both run at once in one memory, so `run` must never return to what
// the caller changes, and the stack stays until the child has been reaped. A failing system call
// of its writes the errno of the calling thread.
Result<pid_t> clone3_shared(const CloneRequest& request, UniqueFd* pidfd, void* stack,
                            size_t stack_bytes, int (*run)(void*), void* argument);

// Expect ESRCH (no such process), EINVAL (not a thread group leader). Linux 5.3.
Result<UniqueFd> pidfd_open(pid_t pid);

// Expect ESRCH (it has been reaped or is in another pid namespace). Linux 5.1.
Result<void> pidfd_send_signal(int pidfd, int signal);

struct ExitStatus {
  bool exited = false;    // false: WNOHANG and still running
  int code = 0;           // exit code, or 0 where a signal ended it
  int signal = 0;         // the signal that ended it, or 0
  bool core_dumped = false;
};

// waitid(P_PIDFD) of a child. `options` is WEXITED (added always) with WNOHANG, WNOWAIT, and
// __WALL for one without an exit signal.
// rusage may be null. Expect ECHILD (not ours). Retries EINTR.
Result<ExitStatus> waitid_pidfd(int pidfd, int options, struct rusage* rusage);

// flags: CLOSE_RANGE_CLOEXEC (Linux 5.11) or 0 (5.9).
Result<void> close_range(unsigned first, unsigned last, unsigned flags);

// Returns only on failure. flags: AT_EMPTY_PATH to run the descriptor itself.
Failure execveat(int dirfd, const char* path, char* const argv[], char* const envp[], int flags);

}  // namespace sys
