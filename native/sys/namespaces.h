// Joining and leaving namespaces.
#pragma once

#include <sched.h>

#include "sys/result.h"

namespace sys {

// fd is a namespace file (type = its CLONE_NEW* or 0) or a pidfd (type = a set of CLONE_NEW*,
// Linux 5.8: all are joined or none). Expect EINVAL (the descriptor is of another type, or a
// threaded caller joins a user or mount namespace), EPERM.
Result<void> setns(int fd, int type);

// Expect ENOSPC (limit of namespaces in /proc/sys/user), EPERM, EINVAL (threaded caller).
Result<void> unshare(int flags);

// The CLONE_NEW* type of a namespace file: ioctl NS_GET_NSTYPE. Expect ENOTTY (no namespace).
Result<int> namespace_type(int fd);

}  // namespace sys
