#include "sys/wait_any.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sys {

Result<AnyExit> waitid_any() {
  AnyExit exit;
  siginfo_t child{};
  // libc's waitid has no rusage parameter, the system call does (waitid(2), "C library/kernel differences").
  while (::syscall(SYS_waitid, P_ALL, 0, &child, WEXITED | WNOHANG | __WALL, &exit.usage) < 0) {
    if (errno != EINTR) return FailedWithErrno("waitid");
  }
  if (child.si_pid == 0) return exit;
  exit.pid = child.si_pid;
  exit.status.exited = true;
  exit.status.code = child.si_code == CLD_EXITED ? child.si_status : 0;
  exit.status.signal = child.si_code == CLD_EXITED ? 0 : child.si_status;
  exit.status.core_dumped = child.si_code == CLD_DUMPED;
  return exit;
}

}  // namespace sys
