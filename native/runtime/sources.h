// Everything the parent opens for the child before the clone: rootfs, bind sources, namespaces,
// devices, /dev/null. Borrowed by the child as numbers; closed with this object.
#pragma once

#include <string>
#include <vector>

#include "runtime/container.h"
#include "runtime/plan.h"
#include "sys/unique_fd.h"

namespace runtime {

struct Sources {
  std::vector<sys::UniqueFd> owned;
  sys::UniqueFd mapped_user;  // the container's mappings as a namespace, for id-mapped mounts
  sys::UniqueFd root, cgroup, null_device, null_mount;
  std::vector<int> mounts;   // per plan mount, -1 where the child makes it
  std::vector<std::string> bind_sources;  // what bind_paths points to
  std::vector<const char*> bind_paths;    // per plan mount, null but for what the child clones; or empty
  std::vector<int> devices;  // per plan device in a user namespace; else empty
  std::vector<int> joined;   // per plan->joined
  int joined_user = -1;      // one of `joined`
  int joined_pid = -1;       // one of `joined`, which the parent has to join
};

[[nodiscard]] bool OpenSources(const LaunchRequest& request, const Plan& plan, Sources* sources,
                               Problem* problem);

// /dev/null of the caller's own /dev, checked to be the device 1:3.
[[nodiscard]] bool OpenNullDevice(sys::UniqueFd* null_device, Problem* problem);

}  // namespace runtime
