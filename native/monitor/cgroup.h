// What the monitor does with cgroups: make and remove those of execs, kill whole ones, and read
// who was killed for memory. All paths are absolute directories of a cgroup2 mount.
#pragma once

#include <stdint.h>

#include <string>

#include "sys/result.h"

namespace monitor {

// mkdir(2), mode 0755. EEXIST is a failure: a name is used once.
sys::Result<void> MakeCgroup(const std::string& path);

// rmdir(2). Expect EBUSY while a process is in it. A missing one is a success.
sys::Result<void> RemoveCgroup(const std::string& path);

// Kills every process in the cgroup and below it: cgroup.kill (Linux 5.14). Works on frozen ones.
sys::Result<void> KillCgroup(const std::string& path);

// `oom_kill` of memory.events, which counts the cgroup and those below it. 0 without the memory controller.
uint64_t ReadOomKills(const std::string& path);

}  // namespace monitor
