// Directory trees as a whole: removing one, and the cgroups below one.
#pragma once

#include "sys/result.h"

namespace sys {

// Removes `path` and all below it; succeeds where it does not exist. No link is followed, and what
// lies on another device (a mount that was left behind) is not entered: its directory is EBUSY.
Result<void> RemoveTree(const char* path);

// rmdir(2) of a cgroup and of the cgroups below it, deepest first. False where a process is in one of
// them (EBUSY); one that is gone counts as removed (cgroups(7), "Removing cgroups").
Result<bool> RemoveCgroups(const char* path);

}  // namespace sys
