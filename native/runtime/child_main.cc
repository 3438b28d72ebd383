// The child, from clone3 to execve. SIGNAL-SAFE: system calls and the decoded plan only.
//
// The order below is the heart of the runtime; each step says what forces its place.
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#include "runtime/child.h"
#include "runtime/child_calls.h"
#include "runtime/child_identity.h"
#include "runtime/child_rootfs.h"

namespace runtime {
namespace {

using namespace child;  // the child's own small vocabulary

// The caller may have blocked signals and ignored some; both would survive execve.
void ResetSignals() {
  struct {
    void* handler;
    unsigned long flags;
    void* restorer;
    uint64_t mask;
  } action;
  memset(&action, 0, sizeof action);
  for (int signal = 1; signal <= 31; signal++) {
    if (signal == SIGKILL || signal == SIGSTOP) continue;
    syscall(SYS_rt_sigaction, signal, &action, nullptr, sizeof action.mask);
  }
  const uint64_t none = 0;
  syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, nullptr, sizeof none);
}

void WriteKernelFile(const char* path, const char* value) {
  const long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) FailErrno(Call::openat_);
  if (syscall(SYS_write, fd, value, strlen(value)) < 0) FailErrno(Call::write_);
  close(static_cast<int>(fd));
}

// The oom score is written while /proc is still the host's, which nothing of the container can
// have put something else over (the class of CVE-2019-16884).
void SetOomScore(const PlanProcess& process) {
  if (!process.has_oom_score_adj) return;
  At(Step::kOomScoreAdj);
  WriteKernelFile("/proc/self/oom_score_adj", process.oom_score_adj);
}

void JoinNamespaces(const ChildContext& context) {
  if (context.join_pidfd >= 0) {
    At(Step::kNamespace);
    if (setns(context.join_pidfd, static_cast<int>(context.join_flags)) < 0) {
      FailErrno(Call::setns_);
    }
    if (context.join_root >= 0) {
      At(Step::kRootfs);
      if (fchdir(context.join_root) < 0) FailErrno(Call::fchdir_);
      if (chroot(".") < 0) FailErrno(Call::chroot_);
    }
    return;
  }
  for (size_t i = 0; i < context.plan->joined.size(); i++) {
    const int type = context.plan->joined[i].type;
    // A pid namespace is joined by the parent: setns(2) acts on children only. So is the user
    // namespace that a new pid namespace is to belong to.
    if (type == CLONE_NEWPID || (type == CLONE_NEWUSER && context.is_in_user)) continue;
    At(Step::kNamespace, static_cast<int32_t>(i));
    if (setns(context.joined[i], type) < 0) FailErrno(Call::setns_);
  }
}

// Root of the user namespace, so that what is made belongs to it. The maps are written by the
// parent after the clone and before this (user_namespaces(7): unmapped ids cannot be set).
void BecomeNamespaceRoot() {
  At(Step::kUserMap);
  if (syscall(SYS_setresgid, 0, 0, 0) < 0) FailErrno(Call::setresgid_);
  if (syscall(SYS_setresuid, 0, 0, 0) < 0) FailErrno(Call::setresuid_);
}

void SetNames(const Plan& plan) {
  At(Step::kHostname);
  if (plan.hostname[0] != '\0' && sethostname(plan.hostname, strlen(plan.hostname)) < 0) {
    FailErrno(Call::sethostname_);
  }
  At(Step::kDomainname);
  if (plan.domainname[0] != '\0' && setdomainname(plan.domainname, strlen(plan.domainname)) < 0) {
    FailErrno(Call::setdomainname_);
  }
}

void WriteSysctls(const Plan& plan) {
  for (size_t i = 0; i < plan.sysctls.size(); i++) {
    At(Step::kSysctl, static_cast<int32_t>(i));
    WriteKernelFile(plan.sysctls[i].path, plan.sysctls[i].value);
  }
}

void SetLimits(const Plan& plan) {
  const PlanProcess& process = plan.process;
  for (size_t i = 0; i < process.rlimits.size(); i++) {
    At(Step::kRlimit, static_cast<int32_t>(i));
    const RlimitSpec& limit = process.rlimits[i];
    if (syscall(SYS_prlimit64, 0, limit.resource, &limit.limit, nullptr) < 0) {
      FailErrno(Call::prlimit64_);
    }
  }
  At(Step::kPersonality);
  if (plan.has_personality && syscall(SYS_personality, plan.personality) < 0) {
    FailErrno(Call::personality_);
  }
  At(Step::kScheduler);
  if (const SchedulerSpec& spec = process.scheduler; spec.present) {
    struct {  // struct sched_attr, SCHED_ATTR_SIZE_VER0
      uint32_t size, policy;
      uint64_t flags;
      int32_t nice;
      uint32_t priority;
      uint64_t runtime, deadline, period;
    } attributes = {48, static_cast<uint32_t>(spec.policy), spec.flags, spec.nice,
                    static_cast<uint32_t>(spec.priority), spec.runtime_ns, spec.deadline_ns,
                    spec.period_ns};
    if (syscall(SYS_sched_setattr, 0, &attributes, 0) < 0) FailErrno(Call::sched_setattr_);
  }
  At(Step::kAffinity);
  if (process.final_cpus.bytes != 0 &&
      syscall(SYS_sched_setaffinity, 0, process.final_cpus.bytes, process.final_cpus.words) < 0) {
    FailErrno(Call::sched_setaffinity_);
  }
  At(Step::kMemoryPolicy);
  if (plan.memory_policy.present &&
      syscall(SYS_set_mempolicy, plan.memory_policy.mode,
              plan.memory_policy.has_nodes ? plan.memory_policy.nodes.words : nullptr,
              plan.memory_policy.has_nodes ? kMaxBits + 1 : 0) < 0) {
    FailErrno(Call::set_mempolicy_);
  }
  At(Step::kIoPriority);
  if (process.io_priority >= 0 && syscall(SYS_ioprio_set, 1, 0, process.io_priority) < 0) {
    FailErrno(Call::ioprio_set_);
  }
}

void LoadSeccomp(const ChildContext& context) {
  if (context.seccomp == nullptr) return;
  At(Step::kSeccomp);
  const long result = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, context.seccomp_flags,
                              context.seccomp);
  if (result < 0) FailErrno(Call::seccomp_);
  if (context.seccomp_notify) {
    Tell(ReportKind::kSeccomp, static_cast<int>(result));
    close(static_cast<int>(result));
  }
}

void SetStdio(const ChildContext& context, int slave) {
  At(Step::kStdio);
  int fds[3];
  for (int i = 0; i < 3; i++) {
    fds[i] = slave >= 0 ? slave : context.stdio[i] >= 0 ? context.stdio[i] : context.null_device;
    // Out of the way of 0, 1 and 2, so that no dup3 overwrites a later source.
    if (fds[i] < 3) fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3 + context.preserve_fds);
    if (fds[i] < 0) FailErrno(Call::fcntl_);
  }
  for (int i = 0; i < 3; i++) {
    if (dup3(fds[i], i, 0) < 0) FailErrno(Call::dup3_);
  }
  if (slave >= 0 && ioctl(0, TIOCSCTTY, 0) < 0) FailErrno(Call::ioctl_);
}

// The directory is entered as root first, which may pass where the user may not (a private
// home); then again as the user. What getcwd says must be a path of this root: "(unreachable)"
// is a directory outside of it (the class of CVE-2024-21626).
void CheckWorkingDirectory() {
  char path[4096];
  const long length = syscall(SYS_getcwd, path, sizeof path);
  if (length < 0) FailErrno(Call::getcwd_);
  if (path[0] != '/') Fail(Call::getcwd_, EXDEV);
}

void WriteLabel(int attributes, const char* prefix, const char* label) {
  char text[4096];
  const size_t prefix_length = strlen(prefix);
  const size_t length = strlen(label);
  if (prefix_length + length >= sizeof text) Fail(Call::write_, ENAMETOOLONG);
  memcpy(text, prefix, prefix_length);
  memcpy(text + prefix_length, label, length);
  if (syscall(SYS_write, attributes, text, prefix_length + length) < 0) FailErrno(Call::write_);
}

// Opened while /proc is the host's; written right before execve.
int OpenLabelFile(const PlanProcess& process) {
  if (process.apparmor_profile[0] == '\0' && process.selinux_label[0] == '\0') return -1;
  At(Step::kLabel);
  const char* path = process.apparmor_profile[0] != '\0' ? "/proc/thread-self/attr/apparmor/exec"
                                                         : "/proc/thread-self/attr/exec";
  const long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) FailErrno(Call::openat_);
  return static_cast<int>(fd);
}

// A created container waits for long: it must not hold the pipes of its caller open.
void CloseAllBut(int first, int a, int b, int c, int d) {
  const int kept[] = {a, b, c, d};
  while (first >= 0) {
    int next = -1;  // the lowest kept one from `first` up
    for (const int fd : kept) {
      if (fd >= first && (next < 0 || fd < next)) next = fd;
    }
    const unsigned last = next < 0 ? ~0u : static_cast<unsigned>(next) - 1;
    if (next != first) syscall(SYS_close_range, first, last, 0);
    first = next < 0 ? -1 : next + 1;
  }
}

// Stops until somebody connects to the listener or the parent sends its byte.
void WaitForStart(const ChildContext& context, int label) {
  if (!context.waits_for_start) return;
  At(Step::kWait);
  CloseAllBut(3 + context.preserve_fds, report_fd, context.listener, label, context.hook_state);
  Tell(ReportKind::kReady, -1);
  if (context.listener < 0) return AwaitParent();
  long connection;
  do {
    connection = syscall(SYS_accept4, context.listener, nullptr, nullptr, SOCK_CLOEXEC);
  } while (connection < 0 && errno == EINTR);
  if (connection < 0) FailErrno(Call::accept4_);
  if (dup3(static_cast<int>(connection), report_fd, O_CLOEXEC) < 0) FailErrno(Call::dup3_);
  close(static_cast<int>(connection));
}

void JoinSessionKeyring() {
  // ENOSYS, EPERM: kernels and sandboxes without keyrings have nothing to separate.
  if (syscall(SYS_keyctl, 1 /* KEYCTL_JOIN_SESSION_KEYRING */, nullptr) < 0 && errno != ENOSYS &&
      errno != EPERM && errno != EDQUOT) {
    FailErrno(Call::keyctl_);
  }
}

// Before the filter: profiles made for programs may refuse close_range(2) and sendmsg(2).
void CloseAndTell(const ChildContext& context) {
  At(Step::kExec);
  if (syscall(SYS_close_range, 3 + context.preserve_fds, ~0u, 4 /* CLOSE_RANGE_CLOEXEC */) < 0) {
    FailErrno(Call::close_range_);
  }
  Tell(ReportKind::kExec, -1);
}

[[noreturn]] void Exec(const PlanProcess& process) {
  At(Step::kExec);
  int error = ENOENT;
  for (const char* const* program = process.programs; *program != nullptr; program++) {
    execve(*program, const_cast<char* const*>(process.argv),
           const_cast<char* const*>(process.envp));
    if (errno == ENOENT || errno == ENOTDIR) continue;
    // execvp(3): a program that may not be run is remembered, the search goes on.
    error = errno;
    if (errno != EACCES) break;
  }
  Fail(Call::execve_, error);
}

// In a new mount namespace the root is prepared; exec finds it made.
int EnterContainer(const ChildContext& context) {
  const Plan& plan = *context.plan;
  if (context.waits_for_maps) AwaitParent();
  if (plan.has_userns) BecomeNamespaceRoot();
  if (context.unshare_flags != 0) {
    At(Step::kNamespace);
    if (unshare(static_cast<int>(context.unshare_flags)) < 0) FailErrno(Call::unshare_);
  }
  if (context.join_pidfd >= 0) {
    return plan.process.terminal ? OpenExecTerminal(context) : -1;
  }
  if (context.waits_for_hooks) {
    Tell(ReportKind::kNeedsHooks, -1);
    AwaitParent();
  }
  SetNames(plan);
  WriteSysctls(plan);
  return PrepareRootfs(context);
}

}  // namespace

void ChildMain(const ChildContext& context) {
  const Plan& plan = *context.plan;
  const PlanProcess& process = plan.process;
  report_fd = context.report;
  // Else the parent's death or hanging up could never be seen as an end of file.
  close(context.parent_report);
  ResetSignals();
  At(Step::kSetup);
  syscall(SYS_setsid);  // EPERM: leads a session already, which is as good
  syscall(SYS_umask, 0);
  if (context.new_keyring) JoinSessionKeyring();
  SetOomScore(process);
  const int label = OpenLabelFile(process);
  JoinNamespaces(context);
  const int slave = EnterContainer(context);
  SetLimits(plan);
  SetStdio(context, slave);
  WaitForStart(context, label);
  if (context.start_container_count != 0) {
    RunChildHooks(context.start_container, context.start_container_count, context.hook_state,
                  context.create_container_count);
  }
  const bool is_in_cwd = chdir(process.cwd) == 0;
  // seccomp(2): without no_new_privs a filter needs CAP_SYS_ADMIN, which is kept for it and
  // dropped by the one call that the filter then binds. All else of ours comes before it.
  At(Step::kCapabilities);
  const CapabilitySets sets = Grantable(process.capabilities);
  const bool keeps_admin = context.seccomp != nullptr && !process.no_new_privileges;
  const uint64_t besides = keeps_admin ? uint64_t{1} << CAP_SYS_ADMIN & ~sets.effective : 0;
  SetUserAndCapabilities(process, sets, besides);
  At(Step::kCwd);
  if (!is_in_cwd && chdir(process.cwd) < 0) FailErrno(Call::chdir_);
  CheckWorkingDirectory();
  At(Step::kNoNewPrivileges);
  if (process.no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
    FailErrno(Call::prctl_);
  }
  At(Step::kLabel);
  if (label >= 0 && process.apparmor_profile[0] != '\0') {
    WriteLabel(label, "exec ", process.apparmor_profile);
  } else if (label >= 0) {
    WriteLabel(label, "", process.selinux_label);
  }
  syscall(SYS_umask, process.umask);
  CloseAndTell(context);
  LoadSeccomp(context);
  At(Step::kCapabilities);
  if (besides != 0) SetCapabilities(sets, 0);
  Exec(process);
}

}  // namespace runtime
