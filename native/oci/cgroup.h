// The container's cgroup v2 directory, for minke-oci: found, made, limited, killed, removed.
#pragma once

#include <string>

#include "runtime/spec.h"

namespace oci {

// Where cgroup2 is mounted: /sys/fs/cgroup, or what /proc/self/mountinfo says. "" = nowhere.
std::string FindCgroupMount();

// The directory for linux.cgroupsPath, or for the id where that is empty. A relative path is
// below "minke-oci" of the mount (runtime-spec config-linux.md, "Cgroups Path"). False: the
// path is one that cannot be; *problem says why.
[[nodiscard]] bool CgroupPathFor(const std::string& mount, const std::string& cgroups_path,
                                 const std::string& id, std::string* path, std::string* problem);

// Makes the directory, enabling on the way the controllers that the limits need; the runtime
// writes the limits. *made: the last directory was not there before. False: *problem names the
// controller that is missing.
[[nodiscard]] bool MakeCgroup(const std::string& mount, const std::string& path,
                              const runtime::Spec& spec, bool* made, std::string* problem);

// Kills every process in it (cgroup.kill, Linux 5.14).
bool KillCgroup(const std::string& path);

// Removes it and what is below; waits up to a second for the last process to be gone.
bool RemoveCgroup(const std::string& path);

}  // namespace oci
