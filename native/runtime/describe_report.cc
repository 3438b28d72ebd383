#include "runtime/describe_report.h"

#include <errno.h>
#include <string.h>

#include "runtime/spec_names.h"

namespace runtime {
namespace {

const char* CallName(Call call) {
  static constexpr const char* kNames[] = {
#define X(name) #name,
      MINKE_CALLS(X)
#undef X
  };
  const auto index = static_cast<size_t>(call);
  return index < std::size(kNames) ? kNames[index] : "?";
}

std::string Quoted(const char* text) { return "\"" + std::string(text) + "\""; }

// The child counts its createContainer and startContainer hooks as one list.
std::string HookSubject(size_t index, const Spec& spec) {
  const size_t first = spec.create_container.size();
  if (index < first) return "hook createContainer " + Quoted(spec.create_container[index].path);
  index -= first;
  if (index >= spec.start_container.size()) return "hook";
  return "hook startContainer " + Quoted(spec.start_container[index].path);
}

// The entry of the plan that a report speaks of: `mount "/data"`.
std::string Subject(const ChildReport& report, const Plan& plan) {
  const auto i = static_cast<size_t>(report.index);
  const bool has_index = report.index >= 0;
  const std::string step = StepName(report.step);
  switch (report.step) {
    case Step::kMount:
      if (has_index && i < plan.mounts.size()) return "mount " + Quoted(plan.mounts[i].destination);
      break;
    case Step::kDevice:
      if (has_index && i < plan.devices.size()) return "device " + Quoted(plan.devices[i].path);
      break;
    case Step::kSymlink:
      if (has_index && i < plan.symlinks.size()) return "symlink " + Quoted(plan.symlinks[i].path);
      break;
    case Step::kMask:
      if (has_index && i < plan.masked_paths.size()) return "mask " + Quoted(plan.masked_paths[i]);
      break;
    case Step::kReadonlyPath:
      if (has_index && i < plan.readonly_paths.size()) {
        return "make read-only " + Quoted(plan.readonly_paths[i]);
      }
      break;
    case Step::kSysctl:
      if (has_index && i < plan.sysctls.size()) {
        return "write " + Quoted(plan.sysctls[i].path) + " value " + Quoted(plan.sysctls[i].value);
      }
      break;
    case Step::kRlimit:
      if (has_index && i < plan.process.rlimits.size()) {
        return std::string("set ") + plan.process.rlimits[i].name;
      }
      break;
    case Step::kNamespace:
      if (has_index && i < plan.joined.size()) {
        return std::string("join ") + NamespaceName(plan.joined[i].type) + " namespace " +
               Quoted(plan.joined[i].path);
      }
      break;
    case Step::kOomScoreAdj:
      return "write oom_score_adj value " + Quoted(plan.process.oom_score_adj);
    case Step::kLabel:
      return plan.process.apparmor_profile[0] != '\0'
                 ? "apply AppArmor profile " + Quoted(plan.process.apparmor_profile)
                 : "apply SELinux label " + Quoted(plan.process.selinux_label);
    case Step::kCwd:
      return "chdir to " + Quoted(plan.process.cwd);
    case Step::kExec:
      return "exec " + Quoted(plan.process.argv[0]);
    case Step::kUser:
      return "set user " + std::to_string(plan.process.uid) + ":" +
             std::to_string(plan.process.gid);
    case Step::kHook:
      return HookSubject(i, plan.spec);
    default:
      break;
  }
  return step;
}

}  // namespace

const char* StepName(Step step) {
  static constexpr const char* kNames[] = {
#define X(name, text) text,
      MINKE_STEPS(X)
#undef X
  };
  const auto index = static_cast<size_t>(step);
  return index < std::size(kNames) ? kNames[index] : "?";
}

std::string ErrnoName(int error) {
  const char* name = strerrorname_np(error);
  return name != nullptr ? name : "E" + std::to_string(error);
}

const char* ErrnoHint(Step step, const char* syscall, int error) {
  const bool is_mount = strcmp(syscall, "move_mount") == 0 || strcmp(syscall, "open_tree") == 0;
  if (error == ENOSPC && is_mount) {
    return "the mount namespace has reached its limit; see /proc/sys/fs/mount-max";
  }
  if (error == ENOSPC && (strcmp(syscall, "clone3") == 0 || strcmp(syscall, "unshare") == 0)) {
    return "a limit of namespaces; see /proc/sys/user";
  }
  if (step == Step::kExec && error == ENOENT) {
    return "no such program, or its interpreter is missing in the rootfs";
  }
  if (step == Step::kExec && error == ENOEXEC) return "neither a binary nor a script with #!";
  if (step == Step::kRlimit && error == EPERM) {
    return "above the caller's hard limit, which takes CAP_SYS_RESOURCE";
  }
  if (step == Step::kOomScoreAdj && error == EACCES) {
    return "lowering the score takes CAP_SYS_RESOURCE";
  }
  if (step == Step::kLabel && strcmp(syscall, "write") == 0 && error == ENOENT) {
    return "the profile is not loaded";
  }
  if (step == Step::kCwd && error == EXDEV) return "the working directory is outside of the rootfs";
  if (step == Step::kMount && strcmp(syscall, "fsopen") == 0 && error == ENODEV) {
    return "the kernel has no such filesystem type";
  }
  if (step == Step::kMount && strcmp(syscall, "openat2") == 0 && error == ENOTDIR) {
    return "the destination is a file and the source a directory";
  }
  if (step == Step::kNamespace && error == EINVAL) return "the path is a namespace of another type";
  if (strcmp(syscall, "clone3") == 0 && error == EBUSY) {
    return "the cgroup has controllers enabled for its children";
  }
  return "";
}

Problem DescribeReport(const ChildReport& report, const Plan& plan) {
  const char* call = CallName(report.call);
  Problem problem;
  problem.step = StepName(report.step);
  problem.syscall = call;
  problem.error = report.error;
  problem.message = Subject(report, plan);
  if (report.step == Step::kHook && report.error == ECANCELED) {
    problem.message += report.detail == 0xFFFF ? ": ended by a signal"
                                               : ": ended with status " + std::to_string(report.detail);
    return problem;
  }
  problem.errno_name = ErrnoName(report.error);
  problem.message += ": " + std::string(call) + ": " + problem.errno_name;
  const char* hint = ErrnoHint(report.step, call, report.error);
  if (!plan.has_mountns && report.call == Call::move_mount_ && report.error == EINVAL) {
    hint = "mounts of a container without a mount namespace take Linux 6.15";
  }
  if (hint[0] != '\0') problem.message += std::string(" (") + hint + ")";
  return problem;
}

Problem DescribeFailure(Step step, const std::string& doing, const sys::Failure& failure) {
  Problem problem;
  problem.step = StepName(step);
  problem.syscall = failure.op;
  problem.error = failure.error;
  problem.errno_name = ErrnoName(failure.error);
  problem.message = doing + ": " + failure.op + ": " + problem.errno_name;
  if (const char* hint = ErrnoHint(step, failure.op, failure.error); hint[0] != '\0') {
    problem.message += std::string(" (") + hint + ")";
  }
  return problem;
}

bool FailStep(Step step, const std::string& doing, const sys::Failure& failure, Problem* problem) {
  *problem = DescribeFailure(step, doing, failure);
  return false;
}

std::string Quote(const std::string& text) { return "\"" + text + "\""; }

Problem DescribeSpecError(const SpecError& error) {
  Problem problem;
  problem.step = "spec";
  problem.json_path = error.json_path;
  problem.message = error.json_path.empty() ? "config.json " + error.message
                                            : error.json_path + " " + error.message;
  return problem;
}

}  // namespace runtime
