// linux.seccomp -> a filter program, by libseccomp; and handing out its notify descriptor.
#pragma once

#include <linux/filter.h>

#include <string>
#include <vector>

#include "runtime/child.h"
#include "runtime/container.h"

namespace runtime {

struct SeccompFilter {
  std::vector<struct sock_filter> program;  // empty: no profile
  struct sock_fprog header = {0, nullptr};
  unsigned flags = 0;
  bool notify = false;
  std::vector<std::string> unknown_names;  // of system calls that this libseccomp does not know

  void FillContext(ChildContext* context);
};

// Filters that were compiled already, by profile: libseccomp takes milliseconds for a usual one.
// In this process the last one is kept; `directory`, where it is not "", keeps them for others,
// in files with the whole profile beside the program, so that a hash stands for nothing. It must
// be the caller's alone; what cannot be read or written there is compiled anew.
[[nodiscard]] bool CachedSeccomp(const SeccompSpec& spec, const std::string& directory,
                                 SeccompFilter* filter, Problem* problem);

// Names that libseccomp does not know are skipped and listed. System calls newer than the
// newest it knows are answered ENOSYS, as a kernel without them would, where the profile's
// default is an error: programs probe for new calls and understand ENOSYS only.
[[nodiscard]] bool CompileSeccomp(const SeccompSpec& spec, SeccompFilter* filter,
                                  Problem* problem);

// Sends the notify descriptor and the container's state to listenerPath (runtime-spec
// config-linux.md, "The Container Process State").
[[nodiscard]] bool SendSeccompListener(const SeccompSpec& spec, const std::string& id, pid_t pid,
                                       const std::string& bundle, int fd, Problem* problem);

}  // namespace runtime
