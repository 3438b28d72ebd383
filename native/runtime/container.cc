#include "runtime/container.h"

#include <fcntl.h>
#include <linux/sched.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/child.h"
#include "runtime/describe_report.h"
#include "runtime/device_policy.h"
#include "runtime/hooks.h"
#include "runtime/labels.h"
#include "runtime/launch.h"
#include "runtime/limits.h"
#include "runtime/outside.h"
#include "runtime/plan.h"
#include "runtime/seccomp.h"
#include "runtime/spec_names.h"
#include "runtime/sources.h"
#include "runtime/user_namespace.h"
#include "sys/files.h"
#include "sys/namespaces.h"
#include "sys/process.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace runtime {

namespace {

bool ReadConfig(const LaunchRequest& request, std::string* text, Problem* problem) {
  if (!request.config_json.empty()) {
    *text = request.config_json;
    return true;
  }
  const std::string path = request.bundle + "/config.json";
  auto read = sys::ReadFileAt(AT_FDCWD, path.c_str(), kMaxSpecBytes);
  if (!read) {
    return FailStep(Step::kSetup, "read \"" + path + "\"", read.failure(), problem);
  }
  *text = std::move(*read);
  return true;
}

bool WriteMaps(pid_t pid, const Spec& spec, Problem* problem) {
  auto done = WriteIdMaps(pid, spec.uid_mappings, spec.gid_mappings);
  return done || FailStep(Step::kUserMap, "write id mappings", done.failure(), problem);
}

void FillContext(const LaunchRequest& request, const Plan& plan, Sources& sources,
                 int report, ChildContext* context) {
  context->plan = &plan;
  context->report = report;
  context->root = sources.root.get();
  context->mount_sources = sources.mounts.data();
  context->bind_paths = sources.bind_paths.data();
  context->device_sources = sources.devices.empty() ? nullptr : sources.devices.data();
  context->joined = sources.joined.data();
  context->null_device = sources.null_device.get();
  context->null_mount = sources.null_mount.get();
  for (int i = 0; i < 3; i++) context->stdio[i] = request.stdio[i];
  context->listener = request.start_listener;
  context->preserve_fds = request.preserve_fds;
  context->waits_for_start = request.wait_for_start || request.start_listener >= 0;
  context->waits_for_maps = (plan.new_namespaces & CLONE_NEWUSER) != 0;
  context->waits_for_hooks = !plan.spec.prestart.empty() || !plan.spec.create_runtime.empty() ||
                             !plan.spec.net_devices.empty() || plan.spec.intel_rdt.present;
  context->no_pivot = request.no_pivot;
  context->new_keyring = !request.no_new_keyring;
}

// Namespaces that clone3 makes, and those that the child makes itself: a new cgroup namespace
// has its maker's cgroup as root, and only the child is in the container's (cgroup_namespaces(7)).
// With a joined user namespace all come after joining it, so that it owns them.
void SplitNamespaces(const Plan& plan, uint64_t* clone_flags, uint64_t* unshare_flags) {
  const uint64_t all = plan.new_namespaces & ~uint64_t{CLONE_NEWTIME};
  bool joins_user = false;
  for (const NamespaceSpec& entry : plan.joined) joins_user |= entry.type == CLONE_NEWUSER;
  *unshare_flags = joins_user ? all & ~uint64_t{CLONE_NEWPID} : all & CLONE_NEWCGROUP;
  *clone_flags = all & ~*unshare_flags;
}

bool CloneChild(const LaunchRequest& request, const Plan& plan, Sources& sources,
                ChildContext* context, Launch* out, Problem* problem) {
  auto pair = MakeReportPair();
  if (!pair) return FailStep(Step::kSetup, "report", pair.failure(), problem);
  FillContext(request, plan, sources, pair->child.get(), context);
  context->parent_report = pair->parent.get();
  uint64_t clone_flags = 0;
  SplitNamespaces(plan, &clone_flags, &context->unshare_flags);
  ChildNamespaces for_children;
  if (sources.joined_pid >= 0) {
    if (auto joined = for_children.JoinPid(sources.joined_pid); !joined) {
      return FailStep(Step::kNamespace, "join pid namespace", joined.failure(), problem);
    }
  }
  if ((plan.new_namespaces & CLONE_NEWTIME) != 0) {
    if (auto made = for_children.NewTime(plan.spec); !made) {
      return FailStep(Step::kNamespace, "make time namespace", made.failure(), problem);
    }
  }
  sys::CloneRequest clone;
  clone.flags = clone_flags;
  clone.cgroup = sources.cgroup.get();
  // A new pid namespace must belong to the user namespace that is joined, if one is.
  const bool is_inside = sources.joined_user >= 0 && (clone_flags & CLONE_NEWPID) != 0;
  context->is_in_user = is_inside;
  const auto run_child = [](const void* child) { ChildMain(*static_cast<const ChildContext*>(child)); };
  auto pid = is_inside ? CloneInUserNamespace(sources.joined_user, clone, run_child, context, &out->pidfd)
                       : sys::clone3(clone, &out->pidfd);
  if (!pid) return FailStep(Step::kSetup, "clone", pid.failure(), problem);
  if (*pid == 0) ChildMain(*context);
  out->pid = *pid;
  out->report = std::move(pair->parent);
  return true;
}

// What the spec asks for and the child will not get; the start goes on without.
std::vector<std::string> Warnings(const Plan& plan, const SeccompFilter& filter) {
  std::vector<std::string> warnings = plan.warnings;
  std::string names;
  for (const std::string& name : filter.unknown_names) names += (names.empty() ? "" : ", ") + name;
  if (!names.empty()) {
    warnings.push_back("linux.seccomp: ignoring system calls that libseccomp does not know: " + names);
  }
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct own[2] = {};
  if (plan.has_userns || ::syscall(SYS_capget, &header, own) < 0) return warnings;
  const uint64_t mine = own[0].permitted | (uint64_t{own[1].permitted} << 32);
  const CapabilitySets& asked = plan.process.capabilities;
  const uint64_t missing = (asked.permitted | asked.inheritable) & ~mine;
  names.clear();
  for (int i = 0; i <= kLastCapability; i++) {
    if ((missing >> i & 1) != 0) names += (names.empty() ? "" : ", ") + std::string(CapabilityName(i));
  }
  if (!names.empty()) {
    warnings.push_back("process.capabilities: ignoring capabilities that the caller lacks: " + names);
  }
  return warnings;
}

// Before the clone: the first process is born limited.
bool LimitCgroup(const Spec& spec, const sys::UniqueFd& cgroup, Problem* problem) {
  if (cgroup.valid()) {
    return WriteLimits(spec.resources, cgroup.get(), problem) &&
           AttachDevicePolicy(spec.device_rules, cgroup.get(), problem);
  }
  if (spec.resources.empty()) return true;
  *problem = DescribeSpecError({spec.resources[0].json_path, "is set, but there is no cgroup"});
  return false;
}

bool CheckRdt(const LaunchRequest& request, const Spec& spec, Problem* problem) {
  if (!spec.intel_rdt.present) return true;
  const bool is_mounted = !FindResctrl().empty();
  if (is_mounted && request.removes_rdt_groups) return true;
  *problem = DescribeSpecError({"linux.intelRdt", is_mounted ? "is set, and nothing would remove its groups"
                                                             : "is set, but no resctrl file system is mounted"});
  return false;
}

}  // namespace

bool StartContainer(const LaunchRequest& request, Launch* out, Problem* problem) {
  std::string text;
  if (!ReadConfig(request, &text, problem)) return false;
  auto state = std::make_shared<LaunchState>();
  state->id = request.id;
  state->bundle = request.bundle;
  Spec spec;
  SpecError error;
  bool is_read = ReadSpec(std::move(text), &spec, &error);
  const std::string dropped = is_read ? DropMountLabel(&spec) : "";
  if (!is_read || !MakePlan(std::move(spec), &state->plan, &error)) {
    *problem = DescribeSpecError(error);
    return false;
  }
  if (!dropped.empty()) state->plan.warnings.push_back(dropped);
  const Plan& plan = state->plan;
  Sources sources;
  SeccompFilter filter;
  ChildHooks hooks;
  ChildContext context;
  if (!CheckLabels(plan, problem) || !CheckRdt(request, plan.spec, problem) ||
      !CachedSeccomp(plan.spec.seccomp, request.filter_cache, &filter, problem) ||
      !OpenSources(request, plan, &sources, problem) ||
      !hooks.Prepare(plan.spec, problem)) {
    return false;
  }
  if (!LimitCgroup(plan.spec, sources.cgroup, problem)) return false;
  filter.FillContext(&context);
  hooks.FillContext(&context);
  out->state = state;
  out->warnings = Warnings(plan, filter);
  if (!CloneChild(request, plan, sources, &context, out, problem)) return false;
  const HookState hook_state{request.id, request.bundle, out->pid, "creating", &plan.spec};
  bool ok = hooks.WriteState(hook_state, problem);
  if (ok && context.waits_for_maps) {
    ok = WriteMaps(out->pid, plan.spec, problem);
    if (ok) SendByte(out->report.get());
  }
  if (!ok) Abandon(out);
  return ok;
}

}  // namespace runtime
