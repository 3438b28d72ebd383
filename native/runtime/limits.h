// linux.resources as files of the container's cgroup v2 directory.
//
// The reader has turned the spec's terms into files and values; this writes them, before the
// first process is in, so that no moment of a container is without its limits. Who made the
// directory has handed the controllers down to it (cgroups(7), "cgroup.subtree_control").
#pragma once

#include <set>
#include <string>
#include <vector>

#include "runtime/container.h"
#include "runtime/spec.h"

namespace runtime {

// Names of the controllers that the writes need; files of the cgroup core ("cgroup.*") need none.
std::set<std::string> ControllersOf(const std::vector<ResourceWrite>& writes);

// Writes the limits, in order. cgroup: a descriptor of the directory (O_PATH will do). False: a
// controller is missing, which is named before anything is written, or a value was refused.
[[nodiscard]] bool WriteLimits(const std::vector<ResourceWrite>& writes, int cgroup,
                               Problem* problem);

}  // namespace runtime
