// Waiting for any child: for a parent that also inherits orphans (PR_SET_CHILD_SUBREAPER, pid 1).
#pragma once

#include <sys/resource.h>
#include <sys/types.h>

#include "sys/process.h"
#include "sys/result.h"

namespace sys {

struct AnyExit {
  pid_t pid = 0;  // 0: children are left, none has ended
  ExitStatus status;
  struct rusage usage {};
};

// waitid(P_ALL) with WEXITED|WNOHANG|__WALL. Expect ECHILD (no children). Retries EINTR.
Result<AnyExit> waitid_any();

}  // namespace sys
