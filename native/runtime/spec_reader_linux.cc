// The spec's linux object, except its resources and its seccomp profile.
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>

#include "runtime/spec_names.h"
#include "runtime/spec_reader.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace runtime {
namespace {

void ReadNamespace(const JsonNode& node, Spec* spec) {
  const JsonNode type = node["type"];
  NamespaceSpec entry;
  entry.type = NamespaceByName(type.RequiredString());
  if (entry.type == 0) return type.Refuse("is not a type of namespace");
  if (spec->Namespace(entry.type) != nullptr) return type.Refuse("is given twice");
  const JsonNode path = node["path"];
  entry.path = path.String();
  if (entry.path[0] != '\0' && entry.path[0] != '/') path.Refuse("is not an absolute path");
  spec->namespaces.push_back(entry);
}

void ReadDevice(const JsonNode& node, Spec* spec) {
  const JsonNode path = node["path"];
  const JsonNode type = node["type"];
  DeviceSpec device;
  device.path = path.RequiredString();
  if (device.path[0] != '/') path.Refuse("is not an absolute path");
  const char* name = type.RequiredString();
  device.type = name[0] == 'u' ? 'c' : name[0];
  if (strlen(name) != 1 || strchr("cbup", name[0]) == nullptr) {
    return type.Refuse("is none of \"c\", \"b\", \"u\" and \"p\"");
  }
  const JsonNode major = node["major"];
  const JsonNode minor = node["minor"];
  if (device.type != 'p' && !major.Has()) major.Refuse("is missing");
  if (device.type != 'p' && !minor.Has()) minor.Refuse("is missing");
  device.major = static_cast<uint32_t>(major.Unsigned(4095));       // 12 bits: kdev_t.h
  device.minor = static_cast<uint32_t>(minor.Unsigned(0xFFFFF));    // 20 bits
  device.mode = static_cast<uint32_t>(node["fileMode"].Unsigned(0177777, 0666)) & 07777;
  device.uid = static_cast<uint32_t>(node["uid"].Unsigned(UINT32_MAX - 1));
  device.gid = static_cast<uint32_t>(node["gid"].Unsigned(UINT32_MAX - 1));
  spec->devices.push_back(device);
}

TimeOffset ReadOffset(const JsonNode& node) {
  TimeOffset offset;
  offset.present = node.Has();
  offset.seconds = node["secs"].Integer(-(int64_t{1} << 53), int64_t{1} << 53);
  offset.nanoseconds = static_cast<uint32_t>(node["nanosecs"].Unsigned(999'999'999));
  return offset;
}

void ReadTimeOffsets(const JsonNode& node, Spec* spec) {
  if (!node.Has()) return;
  spec->monotonic = ReadOffset(node["monotonic"]);
  spec->boottime = ReadOffset(node["boottime"]);
  const NamespaceSpec* time = spec->Namespace(CLONE_NEWTIME);
  if (time == nullptr || time->path[0] != '\0') {
    node.Refuse("is set, but there is no new time namespace");
  }
}

// A sysctl must belong to a namespace that the container has for itself or joins: the others
// are the host's. Keys may use "/" for "." as sysctl(8) does; ".." cannot survive that.
void ReadSysctls(const JsonNode& node, Spec* spec) {
  spec->sysctls = node.StringMap();
  for (const SysctlSpec& sysctl : spec->sysctls) {
    const char* key = sysctl.key;
    const bool is_ipc = strncmp(key, "kernel.shm", 10) == 0 || strncmp(key, "kernel.msg", 10) == 0 ||
                        strcmp(key, "kernel.sem") == 0 || strncmp(key, "fs.mqueue.", 10) == 0;
    const bool is_net = strncmp(key, "net.", 4) == 0 || strncmp(key, "net/", 4) == 0;
    const bool is_uts = strcmp(key, "kernel.domainname") == 0;
    const int type = is_ipc ? CLONE_NEWIPC : is_net ? CLONE_NEWNET : is_uts ? CLONE_NEWUTS : 0;
    const JsonNode member = node[key];
    if (type == 0) return member.Refuse("is not a sysctl of a namespace");
    if (spec->Namespace(type) == nullptr) {
      return member.Refuse("is set, but the container has no namespace of its own for it");
    }
    if (strstr(key, "..") != nullptr || key[0] == '/' || strpbrk(key, "\n+ ") != nullptr) {
      return member.Refuse("is not the name of a sysctl");
    }
  }
}

void ReadPersonality(const JsonNode& node, Spec* spec) {
  if (!node.Has()) return;
  const JsonNode domain = node["domain"];
  const char* name = domain.RequiredString();
  spec->has_personality = true;
  if (strcmp(name, "LINUX32") == 0) {
    spec->personality = PER_LINUX32;
  } else if (strcmp(name, "LINUX") == 0) {
    spec->personality = PER_LINUX;
  } else {
    domain.Refuse("is neither LINUX nor LINUX32");
  }
  const JsonNode flags = node["flags"];
  if (flags.Has()) flags.ForEach([](const JsonNode& flag) { flag.Refuse("is not a supported flag"); });
}

// set_mempolicy(2).
void ReadMemoryPolicy(const JsonNode& node, Spec* spec) {
  if (!node.Has()) return;
  static constexpr NamedValue kModes[] = {
      {"MPOL_DEFAULT", 0}, {"MPOL_PREFERRED", 1}, {"MPOL_BIND", 2}, {"MPOL_INTERLEAVE", 3},
      {"MPOL_LOCAL", 4},   {"MPOL_PREFERRED_MANY", 5}, {"MPOL_WEIGHTED_INTERLEAVE", 6}};
  static constexpr NamedValue kModeFlags[] = {{"MPOL_F_STATIC_NODES", 1u << 15},
                                              {"MPOL_F_RELATIVE_NODES", 1u << 14},
                                              {"MPOL_F_NUMA_BALANCING", 1u << 13}};
  const JsonNode mode = node["mode"];
  const NamedValue* found = FindNamed(kModes, mode.RequiredString());
  if (found == nullptr) return mode.Refuse("is not a memory policy");
  MemoryPolicySpec& policy = spec->memory_policy;
  policy.present = true;
  policy.mode = static_cast<int>(found->value);
  ReadBitList(node["nodes"], &policy.nodes);
  policy.has_nodes = policy.nodes.bytes != 0;
  const JsonNode flags = node["flags"];
  if (!flags.Has()) return;
  flags.ForEach([&](const JsonNode& flag) {
    const NamedValue* entry = FindNamed(kModeFlags, flag.String());
    if (entry == nullptr) return flag.Refuse("is not a flag of a memory policy");
    policy.mode |= static_cast<int>(entry->value);
  });
}

// dev_valid_name of the kernel; `may_count`: one "%d" stands for the first free number.
bool IsDeviceName(const char* name, bool may_count) {
  const size_t length = strlen(name);
  if (length == 0 || length > 15 || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) return false;
  if (strpbrk(name, "/: \t\n\v\f\r") != nullptr) return false;
  const char* percent = strchr(name, '%');
  return percent == nullptr || (may_count && strcmp(percent, "%d") == 0);
}

void ReadNetDevices(const JsonNode& node, Spec* spec) {
  if (!node.Has()) return;
  const std::vector<const char*> names = node.Keys();
  for (const char* host_name : names) {
    const JsonNode device = node[host_name];
    const JsonNode name = device["name"];
    const NetDeviceSpec entry = {host_name, name.String()};
    if (!IsDeviceName(host_name, false)) return device.Refuse("is not the name of a network device");
    if (entry.name[0] != '\0' && !IsDeviceName(entry.name, true)) {
      return name.Refuse("is not a name for a network device");
    }
    spec->net_devices.push_back(entry);
  }
  if (!names.empty() && spec->Namespace(CLONE_NEWNET) == nullptr) {
    node.Refuse("is set, but the container has no network namespace of its own");
  }
}

void RefuseNewline(const JsonNode& node) {
  if (strchr(node.String(), '\n') != nullptr) node.Refuse("contains a newline");
}

void ReadIntelRdt(const JsonNode& node, IntelRdtSpec* rdt) {
  if (!node.Has()) return;
  rdt->present = true;
  const JsonNode clos = node["closID"];
  rdt->clos_id = clos.String();
  const bool is_root = strcmp(rdt->clos_id, "/") == 0;
  for (const char* taken : {".", "..", "info", "mon_data", "mon_groups"}) {
    if (strcmp(rdt->clos_id, taken) == 0) return clos.Refuse("is not a name for a group");
  }
  if (!is_root && strpbrk(rdt->clos_id, "/\n") != nullptr) return clos.Refuse("is not a name for a group");
  const JsonNode l3 = node["l3CacheSchema"];
  rdt->l3_cache_schema = l3.String();
  RefuseNewline(l3);
  const JsonNode bandwidth = node["memBwSchema"];
  rdt->mem_bw_schema = bandwidth.String();
  RefuseNewline(bandwidth);
  if (rdt->mem_bw_schema[0] != '\0' && strncmp(rdt->mem_bw_schema, "MB:", 3) != 0) {
    bandwidth.Refuse("does not start with \"MB:\"");
  }
  if (const JsonNode schemata = node["schemata"]; schemata.Has()) {
    schemata.ForEach([](const JsonNode& line) { RefuseNewline(line); });
    rdt->schemata = schemata.Strings();
  }
  rdt->has_monitoring = node["enableMonitoring"].Bool();
  for (const char* old : {"enableCMT", "enableMBM"}) {
    const JsonNode enabled = node[old];
    if (enabled.Bool()) enabled.Refuse("is not supported; runtime-spec 1.3 has enableMonitoring instead");
  }
}

void RequireAbsolute(const JsonNode& list, const std::vector<const char*>& paths) {
  for (const char* path : paths) {
    if (path[0] != '/') return list.Refuse("holds a path that is not absolute");
  }
}

void ReadPaths(const JsonNode& node, Spec* spec) {
  const JsonNode masked = node["maskedPaths"];
  spec->masked_paths = masked.Strings();
  RequireAbsolute(masked, spec->masked_paths);
  const JsonNode readonly = node["readonlyPaths"];
  spec->readonly_paths = readonly.Strings();
  RequireAbsolute(readonly, spec->readonly_paths);
  const JsonNode propagation = node["rootfsPropagation"];
  if (propagation.Has() && propagation.String()[0] != '\0') {
    spec->rootfs_propagation = PropagationByName(propagation.String());
    if (spec->rootfs_propagation == 0) propagation.Refuse("is not a kind of propagation");
  }
}

void CheckUserNamespace(const JsonNode& node, Spec* spec) {
  const NamespaceSpec* user = spec->Namespace(CLONE_NEWUSER);
  const bool is_new = user != nullptr && user->path[0] == '\0';
  if (is_new && (spec->uid_mappings.empty() || spec->gid_mappings.empty())) {
    node["uidMappings"].Refuse("or gidMappings is missing for the new user namespace");
  }
  if (user == nullptr && !(spec->uid_mappings.empty() && spec->gid_mappings.empty())) {
    node["uidMappings"].Refuse("or gidMappings is set, but there is no user namespace");
  }
}

}  // namespace

void ReadLinux(const JsonNode& node, Spec* spec) {
  const JsonNode namespaces = node["namespaces"];
  if (namespaces.Has()) {
    namespaces.ForEach([&](const JsonNode& entry) { ReadNamespace(entry, spec); });
  }
  spec->uid_mappings = ReadIdMappings(node["uidMappings"]);
  spec->gid_mappings = ReadIdMappings(node["gidMappings"]);
  CheckUserNamespace(node, spec);
  ReadTimeOffsets(node["timeOffsets"], spec);
  const JsonNode devices = node["devices"];
  if (devices.Has()) devices.ForEach([&](const JsonNode& device) { ReadDevice(device, spec); });
  spec->cgroups_path = node["cgroupsPath"].String();
  ReadResources(node["resources"], spec);
  ReadSeccomp(node["seccomp"], &spec->seccomp);
  ReadPaths(node, spec);
  ReadSysctls(node["sysctl"], spec);
  spec->mount_label = node["mountLabel"].String();
  ReadPersonality(node["personality"], spec);
  ReadMemoryPolicy(node["memoryPolicy"], spec);
  ReadNetDevices(node["netDevices"], spec);
  ReadIntelRdt(node["intelRdt"], &spec->intel_rdt);
}

}  // namespace runtime
