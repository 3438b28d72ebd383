// User namespaces from the parent's side: writing the maps of a child's, making one for id-mapped
// mounts, and cloning into one that is joined.
#pragma once

#include <vector>

#include "runtime/spec.h"
#include "sys/process.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace runtime {

// uid_map and gid_map of a process, each in one write (user_namespaces(7)).
sys::Result<void> WriteIdMaps(pid_t pid, const std::vector<IdMapping>& uids,
                              const std::vector<IdMapping>& gids);

// A user namespace with these maps and no process in it, as mount_setattr(2) takes it.
sys::Result<sys::UniqueFd> MakeUserNamespace(const std::vector<IdMapping>& uids,
                                             const std::vector<IdMapping>& gids);

// clone3 by an intermediate process that has joined the user namespace first, so that a new pid
// namespace belongs to it and its /proc can be mounted (pid_namespaces(7): the owner is the
// maker's user namespace). The child runs `run(argument)`, which does not return, and is the
// caller's own (CLONE_PARENT).
sys::Result<pid_t> CloneInUserNamespace(int userns, const sys::CloneRequest& request,
                                        void (*run)(const void*), const void* argument,
                                        sys::UniqueFd* pidfd);

}  // namespace runtime
