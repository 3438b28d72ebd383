// A further process in a running container.
//
// One clone: the pid namespace is joined for children by this process (setns(2) of that kind
// acts on children only), the child is born in the exec's cgroup, and joins the rest through
// the pidfd in one call.
#include <fcntl.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/child.h"
#include "runtime/container.h"
#include "runtime/describe_report.h"
#include "runtime/labels.h"
#include "runtime/launch.h"
#include "runtime/seccomp.h"
#include "runtime/sources.h"
#include "sys/files.h"
#include "sys/process.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace runtime {
namespace {

// Whether the container's namespace of this name is another than ours.
bool Differs(pid_t pid, const char* name) {
  struct stat own, theirs;
  const std::string path = "/proc/" + std::to_string(pid) + "/ns/" + name;
  if (::stat((std::string("/proc/self/ns/") + name).c_str(), &own) < 0) return false;
  return ::stat(path.c_str(), &theirs) == 0 && theirs.st_ino != own.st_ino;
}

bool ReadProcessAndProfile(const ExecRequest& request, Plan* plan, SeccompSpec* seccomp,
                           Problem* problem) {
  Spec holder;
  SpecError error;
  if (!ReadProcess(request.process_json, &holder, &error) ||
      !MakeExecPlan(std::move(holder), plan, &error)) {
    *problem = DescribeSpecError(error);
    return false;
  }
  if (request.spec_json.empty()) return true;
  Spec container;
  if (!ReadSpec(request.spec_json, &container, &error)) {
    *problem = DescribeSpecError(error);
    return false;
  }
  *seccomp = container.seccomp;
  plan->spec.seccomp = container.seccomp;
  plan->container_document = container.document;
  return true;
}

// What joining namespaces does not lead to: the root of a container that shares the caller's mounts.
bool OpenJoinedRoot(pid_t pid, sys::UniqueFd* root, Problem* problem) {
  const std::string path = "/proc/" + std::to_string(pid) + "/root";
  auto fd = sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
  if (!fd) return FailStep(Step::kRootfs, "open \"" + path + "\"", fd.failure(), problem);
  *root = std::move(*fd);
  return true;
}

bool OpenCgroup(const std::string& path, sys::UniqueFd* cgroup, Problem* problem) {
  if (path.empty()) return true;
  auto fd = sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY);
  if (!fd) return FailStep(Step::kSetup, "open cgroup \"" + path + "\"", fd.failure(), problem);
  *cgroup = std::move(*fd);
  return true;
}

// Runs this process, and children born meanwhile, on some CPUs; as before when it ends.
class CpuAffinity {
 public:
  explicit CpuAffinity(const BitList& cpus) {
    if (cpus.bytes == 0) return;
    const long got = ::syscall(SYS_sched_getaffinity, 0, sizeof before_.words, before_.words);
    if (got < 0) {
      failure_ = sys::FailedWithErrno("sched_getaffinity");
    } else if (::syscall(SYS_sched_setaffinity, 0, cpus.bytes, cpus.words) < 0) {
      failure_ = sys::FailedWithErrno("sched_setaffinity");
    } else {
      before_.bytes = static_cast<size_t>(got);
    }
  }
  ~CpuAffinity() {
    if (before_.bytes != 0) {
      (void)::syscall(SYS_sched_setaffinity, 0, before_.bytes, before_.words);
    }
  }
  const sys::Failure& failure() const { return failure_; }

 private:
  BitList before_;
  sys::Failure failure_{nullptr, 0};
};

bool CloneInto(int pidfd, int cgroup, const ChildContext& context, Launch* out,
               Problem* problem) {
  ChildNamespaces for_children;
  if (auto joined = for_children.JoinPid(pidfd); !joined) {
    return FailStep(Step::kNamespace, "join pid namespace", joined.failure(), problem);
  }
  const CpuAffinity affinity(context.plan->spec.process.initial_cpus);
  if (affinity.failure().op != nullptr) {
    return FailStep(Step::kAffinity, "process.execCPUAffinity.initial", affinity.failure(), problem);
  }
  sys::CloneRequest clone;
  clone.cgroup = cgroup;
  auto pid = sys::clone3(clone, &out->pidfd);
  if (!pid) return FailStep(Step::kSetup, "clone", pid.failure(), problem);
  if (*pid == 0) ChildMain(context);
  out->pid = *pid;
  return true;
}

}  // namespace

bool StartExec(const ExecRequest& request, Launch* out, Problem* problem) {
  auto state = std::make_shared<LaunchState>();
  SeccompSpec seccomp;
  SeccompFilter filter;
  sys::UniqueFd own_pidfd, cgroup, null_device;
  if (!ReadProcessAndProfile(request, &state->plan, &seccomp, problem) ||
      !CheckLabels(state->plan, problem) || 
      !CachedSeccomp(seccomp, request.filter_cache, &filter, problem) ||
      !OpenCgroup(request.cgroup, &cgroup, problem) || !OpenNullDevice(&null_device, problem)) {
    return false;
  }
  int pidfd = request.container_pidfd;
  if (pidfd < 0) {
    auto opened = sys::pidfd_open(request.container_pid);
    if (!opened) return FailStep(Step::kSetup, "open container", opened.failure(), problem);
    own_pidfd = std::move(*opened);
    pidfd = own_pidfd.get();
  }
  auto pair = MakeReportPair();
  if (!pair) return FailStep(Step::kSetup, "report", pair.failure(), problem);
  ChildContext context;
  context.plan = &state->plan;
  context.report = pair->child.get();
  context.parent_report = pair->parent.get();
  context.null_device = null_device.get();
  for (int i = 0; i < 3; i++) context.stdio[i] = request.stdio[i];
  context.preserve_fds = request.preserve_fds;
  context.join_pidfd = pidfd;
  context.join_flags = CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;
  sys::UniqueFd root;
  if (Differs(request.container_pid, "mnt")) {
    context.join_flags |= CLONE_NEWNS;
  } else if (OpenJoinedRoot(request.container_pid, &root, problem)) {
    context.join_root = root.get();
  } else {
    return false;
  }
  state->plan.has_userns = Differs(request.container_pid, "user");
  if (state->plan.has_userns) context.join_flags |= CLONE_NEWUSER;
  if (Differs(request.container_pid, "time")) context.join_flags |= CLONE_NEWTIME;
  filter.FillContext(&context);
  if (!CloneInto(pidfd, cgroup.get(), context, out, problem)) return false;
  out->report = std::move(pair->parent);
  out->state = std::move(state);
  return true;
}

}  // namespace runtime
