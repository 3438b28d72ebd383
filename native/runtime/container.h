// Starting a container's first process, and further processes in it, from an OCI bundle.
//
// The one door to native/runtime; the monitor and minke-oci call it in-process. Spec -> plan
// -> clone3 -> child happens behind it. The caller reaps the child and decides what an exit
// means; nothing here waits for a container. Nothing logs: a failure is a Problem.
// THREADS: single-threaded callers only (the child is a plain fork-like clone3).
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "sys/attached_overlay.h"
#include "sys/unique_fd.h"

namespace runtime {

struct OverlayRoot : sys::OverlayDirs {  // the rootfs as a detached overlay mount: never in the host's mount table
  bool is_idmapped = false;  // the lower layers' ids are mapped by the container's user namespace
};

struct LaunchRequest {
  std::string bundle;                  // absolute directory; config.json is read from it
  std::optional<OverlayRoot> overlay;  // else root.path of the spec
  std::string cgroup;                  // absolute path of an existing cgroup2 directory, or "" = stay in the caller's
  int stdio[3] = {-1, -1, -1};         // borrowed; -1 = /dev/null. A terminal replaces all three
  bool wait_for_start = false;         // stop right before execve until ReleaseStart
  int start_listener = -1;             // borrowed listening SOCK_SEQPACKET socket: the child accepts one connection
                                       // right before execve (instead of ReleaseStart), and reports into it
  std::string config_json;             // the spec's text where the caller has it already, else ""
  std::string id;                      // container id, for the state that hooks get
  int preserve_fds = 0;                // keep descriptors 3 .. 3+n-1 of the caller
  bool no_pivot = false;               // MS_MOVE + chroot instead of pivot_root (rootfs on an initramfs)
  bool no_new_keyring = false;
  bool removes_rdt_groups = false;     // the caller does, when the container is deleted; else intelRdt is refused
  bool keeps_mount_order = false;      // mountinfo has bind mounts where the spec has them: their sources are
                                       // resolved by the child, in a copy of the caller's mount namespace
  std::string filter_cache;            // directory of the caller's alone for compiled seccomp filters, or ""
};

struct Launch {           // a child under way
  pid_t pid = -1;
  sys::UniqueFd pidfd;
  sys::UniqueFd report;    // readable when the child failed, execed (end of file) or reached wait_for_start. Poll it.
  sys::UniqueFd terminal;  // pty master where process.terminal; valid after FinishLaunch
  std::vector<std::string> warnings;  // one sentence each: what the spec asks for and does not get
  bool in_steps = false;   // set by a caller that must not wait: FinishLaunch returns whenever it would
  bool ended = false;      // set by a caller that knows the child dead: nothing is waited for or begun any more
  bool unfinished = false; // FinishLaunch: it did. Poll `hooks` where that is valid, else `report`; then call it again
  sys::UniqueFd hooks;     // the outcome of hooks that run in a process of their own
  sys::UniqueFd hooks_process;  // its pidfd; the caller reaps it with its other children
  bool at_exec = false;    // the child has said that nothing is left but execve
  bool waiting = false;    // FinishLaunch: set up, and waiting for ReleaseStart or the listener
  std::shared_ptr<struct Outside> outside;  // what it has changed outside of the container, where the spec asks for that
  std::shared_ptr<const struct LaunchState> state;  // what the child's report refers to; dropped by FinishLaunch
};

struct Problem {            // a refused spec or a failed step, in words
  std::string message;      // grammar of STYLE.md: mount "/data": move_mount: ENOENT
  std::string json_path;    // for a refused spec: "process.user.uid"; else ""
  std::string syscall;      // kernel's name of the call that failed, or ""
  std::string errno_name;   // "ENOENT", or ""
  std::string step;         // "spec", "plan", "clone", "mount", "exec", ... see child_report.h
  int error = 0;            // errno value, or 0
};

// Makes the container's first process. On success the child runs and `out->report` is to be
// awaited, then FinishLaunch called. On failure nothing is left and *problem says why.
[[nodiscard]] bool StartContainer(const LaunchRequest& request, Launch* out, Problem* problem);

// Loads the device policy that `resources` asks for (linux.resources as JSON), so that this process and
// those that it forks only attach it to containers with the same rules: the kernel's check of it takes as
// long as the clone. Returns the descriptor, `lowest` or above, which is to stay open; -1 where each
// container loads its own.
[[nodiscard]] int ShareDevicePolicy(std::string resources, int lowest);

// The groups of resctrl that were made for the container; for RemoveRdtGroups after its end.
std::vector<std::string> RdtGroupsOf(const Launch& launch);
void RemoveRdtGroups(const std::vector<std::string>& groups);
// Puts the caller, and with it the processes that it will start, into the groups of a container.
[[nodiscard]] bool JoinRdtGroups(const struct Spec& spec, const std::string& id, Problem* problem);

// Takes back what the start has changed outside: where the caller gives up a start that succeeded.
void UndoOutside(Launch* launch);

// After `report` became readable; blocks otherwise. True: the process runs (or `waiting` is
// set, or `unfinished` is). False: the child failed and has exited or is about to; the caller reaps it.
// Step "exec" with ENOENT or EACCES is the container's command not found or not executable.
[[nodiscard]] bool FinishLaunch(Launch* launch, Problem* problem);

// Ends hooks that are still running: the child is dead, or is to be.
void EndHooks(Launch* launch);

// Lets a child that stopped for wait_for_start go on; then FinishLaunch again.
[[nodiscard]] bool ReleaseStart(Launch* launch, Problem* problem);

struct ExecRequest {
  pid_t container_pid = -1;      // the container's first process, in the caller's pid namespace
  int container_pidfd = -1;      // borrowed; -1 = opened from container_pid
  std::string process_json;      // an OCI process object
  std::string spec_json;         // the container's config.json (its seccomp profile, its rootfs facts), or ""
  std::string cgroup;            // absolute path of an existing cgroup2 directory, or ""
  int stdio[3] = {-1, -1, -1};   // as in LaunchRequest
  std::string filter_cache;      // likewise
  int preserve_fds = 0;
};

// Starts a further process in a running container: joins its namespaces through the pidfd
// and execs. The process is the caller's child (CLONE_PARENT). Then FinishLaunch as above.
[[nodiscard]] bool StartExec(const ExecRequest& request, Launch* out, Problem* problem);

}  // namespace runtime
