// The spec's process object: who runs, what, and with which limits and rights.
#include <linux/ioprio.h>
#include <sched.h>
#include <string.h>

#include "runtime/spec_names.h"
#include "runtime/spec_reader.h"

namespace runtime {
namespace {

constexpr uint64_t kMaxId = UINT32_MAX - 1;  // (uid_t)-1 means "unchanged" to the kernel

constexpr NamedValue kPolicies[] = {
    {"SCHED_OTHER", SCHED_OTHER}, {"SCHED_FIFO", SCHED_FIFO}, {"SCHED_RR", SCHED_RR},
    {"SCHED_BATCH", SCHED_BATCH}, {"SCHED_ISO", 4},           {"SCHED_IDLE", SCHED_IDLE},
    {"SCHED_DEADLINE", 6},
};
constexpr NamedValue kSchedulerFlags[] = {
    {"SCHED_FLAG_RESET_ON_FORK", 0x01}, {"SCHED_FLAG_RECLAIM", 0x02},
    {"SCHED_FLAG_DL_OVERRUN", 0x04},    {"SCHED_FLAG_KEEP_POLICY", 0x08},
    {"SCHED_FLAG_KEEP_PARAMS", 0x10},   {"SCHED_FLAG_UTIL_CLAMP_MIN", 0x20},
    {"SCHED_FLAG_UTIL_CLAMP_MAX", 0x40},
};
constexpr NamedValue kIoClasses[] = {
    {"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3},
};

uint64_t ReadCapabilitySet(const JsonNode& node) {
  uint64_t set = 0;
  if (!node.Has()) return set;
  node.ForEach([&](const JsonNode& entry) {
    const int number = CapabilityByName(entry.String());
    if (number < 0) return entry.Refuse("is not the name of a capability");
    set |= uint64_t{1} << number;
  });
  return set;
}

void ReadCapabilities(const JsonNode& node, ProcessSpec* process) {
  if (!node.Has()) return;
  process->has_capabilities = true;
  CapabilitySets& sets = process->capabilities;
  sets.bounding = ReadCapabilitySet(node["bounding"]);
  sets.effective = ReadCapabilitySet(node["effective"]);
  sets.inheritable = ReadCapabilitySet(node["inheritable"]);
  sets.permitted = ReadCapabilitySet(node["permitted"]);
  sets.ambient = ReadCapabilitySet(node["ambient"]);
  // capabilities(7): the kernel would refuse both, after everything else has been set up.
  if ((sets.effective & ~sets.permitted) != 0) {
    node["effective"].Refuse("holds a capability that permitted does not");
  }
  if ((sets.ambient & ~(sets.permitted & sets.inheritable)) != 0) {
    node["ambient"].Refuse("holds a capability that permitted or inheritable does not");
  }
}

void ReadRlimit(const JsonNode& node, ProcessSpec* process) {
  const JsonNode type = node["type"];
  RlimitSpec limit;
  limit.name = type.RequiredString();
  limit.resource = RlimitByName(limit.name);
  if (limit.resource < 0) return type.Refuse("is not the name of a resource limit");
  limit.limit.rlim_max = node["hard"].Unsigned(UINT64_MAX);
  limit.limit.rlim_cur = node["soft"].Unsigned(UINT64_MAX);
  if (limit.limit.rlim_cur > limit.limit.rlim_max) {
    return node["soft"].Refuse("is above the hard limit");
  }
  for (const RlimitSpec& other : process->rlimits) {
    if (other.resource == limit.resource) return type.Refuse("is given twice");
  }
  process->rlimits.push_back(limit);
}

void ReadUser(const JsonNode& user, ProcessSpec* process) {
  process->uid = static_cast<uint32_t>(user["uid"].Unsigned(kMaxId));
  process->gid = static_cast<uint32_t>(user["gid"].Unsigned(kMaxId));
  process->umask = static_cast<int>(user["umask"].Integer(0, 0777, -1));
  const JsonNode groups = user["additionalGids"];
  if (!groups.Has()) return;
  groups.ForEach([&](const JsonNode& group) {
    process->additional_gids.push_back(static_cast<uint32_t>(group.Unsigned(kMaxId)));
  });
}

void ReadScheduler(const JsonNode& node, SchedulerSpec* scheduler) {
  if (!node.Has()) return;
  scheduler->present = true;
  const JsonNode policy = node["policy"];
  const NamedValue* found = FindNamed(kPolicies, policy.RequiredString());
  if (found == nullptr) return policy.Refuse("is not a scheduling policy");
  scheduler->policy = static_cast<int>(found->value);
  scheduler->nice = static_cast<int>(node["nice"].Integer(-20, 19));
  scheduler->priority = static_cast<int>(node["priority"].Integer(0, 99));
  scheduler->runtime_ns = node["runtime"].Unsigned(UINT64_MAX);
  scheduler->deadline_ns = node["deadline"].Unsigned(UINT64_MAX);
  scheduler->period_ns = node["period"].Unsigned(UINT64_MAX);
  const JsonNode flags = node["flags"];
  if (!flags.Has()) return;
  flags.ForEach([&](const JsonNode& flag) {
    const NamedValue* entry = FindNamed(kSchedulerFlags, flag.String());
    if (entry == nullptr) return flag.Refuse("is not a scheduler flag");
    scheduler->flags |= entry->value;
  });
}

void ReadIoPriority(const JsonNode& node, ProcessSpec* process) {
  if (!node.Has()) return;
  const JsonNode name = node["class"];
  const NamedValue* found = FindNamed(kIoClasses, name.RequiredString());
  if (found == nullptr) return name.Refuse("is not an I/O scheduling class");
  const int64_t level = node["priority"].Integer(0, 7);
  process->io_priority =
      static_cast<int>((found->value << IOPRIO_CLASS_SHIFT) | static_cast<uint64_t>(level));
}

// config.md, "execCPUAffinity": where a further process may run, before and after it is in the
// container's cgroup.
void ReadCpuAffinity(const JsonNode& node, ProcessSpec* process) {
  if (!node.Has()) return;
  ReadBitList(node["initial"], &process->initial_cpus);
  ReadBitList(node["final"], &process->final_cpus);
}

void ReadCommand(const JsonNode& node, ProcessSpec* process) {
  const JsonNode args = node["args"];
  process->args = args.Strings();
  if (process->args.empty()) args.Refuse("is missing or empty");
  process->env = node["env"].Strings();
  const JsonNode cwd = node["cwd"];
  process->cwd = cwd.RequiredString();
  if (process->cwd[0] != '/') cwd.Refuse("is not an absolute path");
}

}  // namespace

void ReadProcessObject(const JsonNode& node, ProcessSpec* process) {
  process->terminal = node["terminal"].Bool();
  const JsonNode console = node["consoleSize"];
  process->console_rows = static_cast<uint16_t>(console["height"].Unsigned(UINT16_MAX));
  process->console_columns = static_cast<uint16_t>(console["width"].Unsigned(UINT16_MAX));
  ReadUser(node["user"], process);
  ReadCommand(node, process);
  ReadCapabilities(node["capabilities"], process);
  const JsonNode rlimits = node["rlimits"];
  if (rlimits.Has()) rlimits.ForEach([&](const JsonNode& limit) { ReadRlimit(limit, process); });
  process->no_new_privileges = node["noNewPrivileges"].Bool();
  const JsonNode oom = node["oomScoreAdj"];
  process->has_oom_score_adj = oom.Has();
  process->oom_score_adj = static_cast<int>(oom.Integer(-1000, 1000));
  process->apparmor_profile = node["apparmorProfile"].String();
  process->selinux_label = node["selinuxLabel"].String();
  ReadScheduler(node["scheduler"], &process->scheduler);
  ReadIoPriority(node["ioPriority"], process);
  ReadCpuAffinity(node["execCPUAffinity"], process);
}

}  // namespace runtime
