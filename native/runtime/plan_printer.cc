// A plan as text, one line per operation, in the order in which the child works.
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "runtime/plan.h"
#include "runtime/spec_names.h"

namespace runtime {
namespace {

std::string Hex(uint64_t value) {
  char text[32];
  snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

std::string Octal(unsigned value) {
  char text[32];
  snprintf(text, sizeof text, "%04o", value);
  return text;
}

std::string PrintMount(const PlanMount& mount) {
  std::string line = mount.kind == PlanMount::kBind ? (mount.recursive ? "rbind " : "bind ")
                                                    : std::string("mount ") + mount.type + " ";
  line += std::string(mount.source) + " -> " + mount.destination;
  if (mount.set != 0) line += " set=" + Hex(mount.set);
  if (mount.clear != 0) line += " clear=" + Hex(mount.clear);
  if (mount.recursive_set != 0) line += " rset=" + Hex(mount.recursive_set);
  if (mount.recursive_clear != 0) line += " rclear=" + Hex(mount.recursive_clear);
  if (mount.propagation != 0) line += " propagation=" + Hex(mount.propagation);
  for (const char* const* option = mount.options; option != nullptr && *option != nullptr;
       option++) {
    line += std::string(" ") + *option;
  }
  return line + "\n";
}

std::string PrintCapabilities(const char* name, uint64_t set) {
  std::string line = std::string("capabilities ") + name;
  for (int i = 0; i <= kLastCapability; i++) {
    if ((set >> i & 1) != 0) line += std::string(" ") + CapabilityName(i);
  }
  return line + "\n";
}

std::string PrintProcess(const PlanProcess& process) {
  std::string text;
  for (const RlimitSpec& limit : process.rlimits) {
    text += std::string("rlimit ") + limit.name + " " + std::to_string(limit.limit.rlim_cur) +
            " " + std::to_string(limit.limit.rlim_max) + "\n";
  }
  if (process.has_oom_score_adj) text += std::string("oom_score_adj ") + process.oom_score_adj + "\n";
  text += PrintCapabilities("bounding", process.capabilities.bounding);
  text += PrintCapabilities("effective", process.capabilities.effective);
  text += PrintCapabilities("permitted", process.capabilities.permitted);
  text += PrintCapabilities("inheritable", process.capabilities.inheritable);
  text += PrintCapabilities("ambient", process.capabilities.ambient);
  text += "user " + std::to_string(process.uid) + ":" + std::to_string(process.gid);
  for (const gid_t group : process.groups) text += " +" + std::to_string(group);
  text += "\numask " + Octal(process.umask) + "\ncwd " + process.cwd + "\n";
  if (process.terminal) text += "terminal\n";
  if (process.no_new_privileges) text += "no_new_privs\n";
  for (const char* const* program = process.programs; *program != nullptr; program++) {
    text += std::string("try ") + *program + "\n";
  }
  text += "exec";
  for (const char* const* argument = process.argv; *argument != nullptr; argument++) {
    text += std::string(" ") + *argument;
  }
  return text + "\n";
}

}  // namespace

std::string PrintPlan(const Plan& plan) {
  std::string text;
  for (const NamespaceSpec& joined : plan.joined) {
    text += std::string("join ") + NamespaceName(joined.type) + " " + joined.path + "\n";
  }
  text += "new";
  for (uint64_t bit = 1; bit < (uint64_t{1} << 32); bit <<= 1) {
    if ((plan.new_namespaces & bit) != 0) {
      text += std::string(" ") + NamespaceName(static_cast<int>(bit));
    }
  }
  text += "\n";
  if (plan.hostname[0] != '\0') text += std::string("hostname ") + plan.hostname + "\n";
  if (plan.domainname[0] != '\0') text += std::string("domainname ") + plan.domainname + "\n";
  for (const PlanFile& file : plan.sysctls) {
    text += std::string("write ") + file.path + " " + file.value + "\n";
  }
  for (const PlanMount& mount : plan.mounts) text += PrintMount(mount);
  for (const PlanDevice& device : plan.devices) {
    text += std::string(plan.has_userns ? "bind device " : "device ") + device.path + " " +
            Octal(device.mode) + " " + std::to_string(major(device.device)) + ":" +
            std::to_string(minor(device.device)) + "\n";
  }
  for (const PlanSymlink& link : plan.symlinks) {
    text += std::string("symlink ") + link.path + " -> " + link.target + "\n";
  }
  for (const char* path : plan.readonly_paths) text += std::string("readonly ") + path + "\n";
  for (const char* path : plan.masked_paths) text += std::string("mask ") + path + "\n";
  if (plan.root_readonly) text += "readonly /\n";
  if (plan.root_propagation != 0) text += "propagation " + Hex(plan.root_propagation) + "\n";
  return text + PrintProcess(plan.process);
}

}  // namespace runtime
