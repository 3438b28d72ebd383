// What a start changes outside of the container's own namespaces and cgroup: network devices that
// are moved into its network namespace, and groups of resctrl. Both happen while the child waits.
#pragma once

#include <string>
#include <vector>

#include "runtime/container.h"
#include "runtime/spec.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace runtime {

struct InterfaceAddress {
  uint8_t family, prefix_length;
  std::string attributes;  // as the kernel gave them: local, address, broadcast, flags, metric
};

struct MovedDevice {
  std::string host_name, name;
  int index = 0;  // in the container's namespace
  bool was_up = false;
  std::vector<InterfaceAddress> addresses;
};

struct Outside {
  std::vector<std::string> groups;  // directories of resctrl that are this container's, parents first
  sys::UniqueFd host_netns, netns;
  std::vector<MovedDevice> devices;
};

// Moves the devices (runtime-spec config-linux.md, "Network Devices"). After a failure those that
// were moved are back.
// THREADS: single-threaded callers only; joins the other namespace for a moment.
[[nodiscard]] bool MoveNetDevices(const std::vector<NetDeviceSpec>& devices, pid_t pid, Outside* outside,
                                  Problem* problem);
void ReturnNetDevices(Outside* outside);

// Where resctrl is mounted, or "".
std::string FindResctrl();

// Makes and fills the groups of a container and puts the process into them (config-linux.md,
// "IntelRdt"). resctrl: from FindResctrl. After a failure what was made is gone.
[[nodiscard]] bool EnterRdtGroups(const IntelRdtSpec& spec, const std::string& resctrl, const std::string& id,
                                  pid_t pid, Outside* outside, Problem* problem);

}  // namespace runtime
