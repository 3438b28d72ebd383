// What the parent hands to the child beside the plan: descriptors, and how far it may go alone.
#pragma once

#include <linux/filter.h>
#include <stdint.h>

#include "runtime/plan.h"

namespace runtime {

struct ChildHook {
  const char* path;
  const char* const* args;
  const char* const* env;
  int timeout_s;  // 0 = none
};

struct ChildContext {
  const Plan* plan = nullptr;
  int report = -1;                     // SEQPACKET: ChildReports out, single bytes in
  int parent_report = -1;              // the parent's end, inherited by the clone: to be closed
  int root = -1;                       // detached mount; exec: -1
  int* mount_sources = nullptr;        // per plan mount: detached mount, or -1: the child makes it
  const char* const* bind_paths = nullptr;  // per plan mount: the source that the child clones, or null
  const int* device_sources = nullptr; // per plan device in a user namespace: detached mount
  const int* joined = nullptr;         // per plan->joined
  int null_device = -1;                // /dev/null of the host, checked
  int null_mount = -1;                 // detached mount of it, for masks; -1 where nothing is masked
  int stdio[3] = {-1, -1, -1};
  int listener = -1;
  int preserve_fds = 0;
  int join_pidfd = -1;                 // exec: the container's first process
  uint64_t join_flags = 0;             // exec: CLONE_NEW* to join through it
  int join_root = -1;                  // exec: root of a container without a mount namespace
  uint64_t unshare_flags = 0;          // made by the child itself (cgroup)
  bool is_in_user = false;             // the joined user namespace is entered already
  bool waits_for_maps = false;
  bool waits_for_hooks = false;
  bool waits_for_start = false;
  bool no_pivot = false;
  bool new_keyring = false;
  const struct sock_fprog* seccomp = nullptr;
  unsigned seccomp_flags = 0;
  bool seccomp_notify = false;
  int hook_state = -1;                 // memfd with the state for hooks, rewound before each
  const ChildHook* create_container = nullptr;
  size_t create_container_count = 0;
  const ChildHook* start_container = nullptr;
  size_t start_container_count = 0;
};

// Runs in the child from clone3 to execve, and never returns.
// SIGNAL-SAFE: system calls and the decoded plan only; no heap, no stdio, no locks.
[[noreturn]] void ChildMain(const ChildContext& context);

}  // namespace runtime
