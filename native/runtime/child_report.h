// What the child says to its parent: one fixed-size message per fact, over a SEQPACKET pair.
#pragma once

#include <stdint.h>

namespace runtime {

// What the child was doing. `index` of the report says which one of the plan's list.
#define MINKE_STEPS(X)                                                                      \
  X(kNone, "none") X(kSetup, "setup") X(kNamespace, "namespace") X(kUserMap, "user map")    \
  X(kPropagation, "propagation") X(kRootfs, "rootfs") X(kMount, "mount")                    \
  X(kDevice, "device") X(kSymlink, "symlink") X(kTerminal, "terminal") X(kMask, "mask")     \
  X(kReadonlyPath, "readonly path") X(kReadonlyRoot, "readonly root")                       \
  X(kPivotRoot, "pivot root") X(kHostname, "hostname") X(kDomainname, "domainname")         \
  X(kSysctl, "sysctl") X(kOomScoreAdj, "oom score") X(kRlimit, "rlimit")                    \
  X(kPersonality, "personality") X(kScheduler, "scheduler") X(kIoPriority, "io priority")   \
  X(kLabel, "label") X(kCapabilities, "capabilities") X(kUser, "user") X(kCwd, "chdir")     \
  X(kNoNewPrivileges, "no new privileges") X(kSeccomp, "seccomp") X(kStdio, "stdio")        \
  X(kHook, "hook") X(kWait, "wait") X(kExec, "exec") X(kLimits, "limits")   \
  X(kAffinity, "cpu affinity") X(kMemoryPolicy, "memory policy")                           \
  X(kNetDevice, "network device") X(kIntelRdt, "intel rdt")

enum class Step : uint16_t {
#define X(name, text) name,
  MINKE_STEPS(X)
#undef X
};

// The system call that failed, by the kernel's name.
#define MINKE_CALLS(X)                                                                       \
  X(none) X(setns) X(unshare) X(mount) X(move_mount) X(open_tree) X(openat) X(openat2)       \
  X(fsopen) X(fsconfig) X(fsmount) X(mount_setattr) X(mkdirat) X(mknodat) X(symlinkat)       \
  X(fchownat) X(fchmodat) X(fstat) X(fstatfs) X(ioctl) X(sendmsg) X(pivot_root) X(umount2)   \
  X(chroot) X(fchdir) X(chdir) X(getcwd) X(sethostname) X(setdomainname) X(write) X(read)    \
  X(prlimit64) X(personality) X(sched_setattr) X(ioprio_set) X(prctl) X(capset)              \
  X(setgroups) X(setresgid) X(setresuid) X(dup3) X(fcntl) X(setsid) X(close_range)           \
  X(seccomp) X(accept4) X(clone) X(waitid) X(execve) X(readlinkat)                           \
  X(keyctl) X(fchown) X(umask) X(getdents64) X(poll) X(fchmod) X(copy_file_range)            \
  X(sched_setaffinity) X(set_mempolicy) X(sendfile) X(setxattr)

enum class Call : uint16_t {
#define X(name) name##_,
  MINKE_CALLS(X)
#undef X
};

enum class ReportKind : uint16_t {
  kFailed,     // step, call, error, index; the child exits
  kTerminal,   // carries the pty master (SCM_RIGHTS)
  kNeedsHooks, // namespaces are made; waits for one byte while the parent runs hooks
  kReady,      // everything is set up; waits for ReleaseStart or the listener
  kExec,       // nothing is left to do but execve: an end of file after this is a success
  kSeccomp,    // carries the seccomp notify descriptor (SCM_RIGHTS)
};

struct ChildReport {
  uint32_t version;  // kChildReportVersion
  ReportKind kind;
  Step step;
  Call call;
  uint16_t detail;  // hook: its exit status; 0xFFFF = ended by a signal
  int32_t error;   // errno, or 0 where a check of our own failed
  int32_t index;   // of the plan's list that `step` works on, or -1
};
static_assert(sizeof(ChildReport) == 20);
constexpr uint32_t kChildReportVersion = 1;

}  // namespace runtime
