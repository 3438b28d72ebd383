// linux.resources.devices as a BPF_PROG_TYPE_CGROUP_DEVICE program on the container's cgroup.
#pragma once

#include <linux/bpf.h>

#include <vector>

#include "runtime/container.h"
#include "runtime/spec.h"
#include "sys/unique_fd.h"

namespace runtime {

// The rules as a program: the last one that matches decides, and what none matches is refused.
// After the spec's rules come those for the default devices and for mknod, which every
// container has (runtime-spec config-linux.md, "Default Devices"). Pure.
std::vector<struct bpf_insn> DeviceProgram(const std::vector<DeviceRule>& rules);

// The program in the kernel; not valid where it refuses, with the problem. Expect EPERM.
[[nodiscard]] sys::UniqueFd LoadDeviceProgram(const std::vector<struct bpf_insn>& program,
                                              Problem* problem);

// Attaches the policy to a cgroup. Nothing is attached where the spec has no rules, or where
// they allow everything. The program lives as long as the cgroup; it is the one of ShareDevicePolicy
// (container.h) where that has the same rules.
[[nodiscard]] bool AttachDevicePolicy(const std::vector<DeviceRule>& rules, int cgroup,
                                      Problem* problem);

}  // namespace runtime
