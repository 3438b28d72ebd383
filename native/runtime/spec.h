// The OCI runtime spec (config.json, runtime-spec 1.3) as the runtime understands it.
//
// Made by ReadSpec from text; every string points into the document that Spec owns and ends
// with a zero byte, so the plan and the child use them as they are. Values are checked when
// read: what is in a Spec is possible by itself (whether the kernel agrees is seen later).
#pragma once

#include <stdint.h>
#include <sys/resource.h>

#include <memory>
#include <string>
#include <vector>

namespace runtime {

struct IdMapping {
  uint32_t container_id, host_id, size;
};

struct MountSpec {
  const char* destination;
  const char* type;    // "" where absent
  const char* source;  // "" where absent
  std::vector<const char*> options;
  std::vector<IdMapping> uid_mappings, gid_mappings;
};

struct NamespaceSpec {
  int type;          // CLONE_NEW*
  const char* path;  // "" = a new one
};

struct DeviceSpec {
  const char* path;
  char type;  // 'c' 'b' 'p'
  uint32_t major, minor, mode, uid, gid;
};

struct DeviceRule {
  bool allow;
  char type;             // 'a' 'c' 'b'
  int64_t major, minor;  // -1 = any
  bool read, write, mknod;
};

struct RlimitSpec {
  int resource;
  const char* name;
  struct rlimit64 limit;
};

struct HookSpec {
  const char* path;
  std::vector<const char*> args, env;
  int timeout_s;  // 0 = none
};

struct SysctlSpec {
  const char *key, *value;
};

struct SeccompArg {
  uint32_t index;
  uint64_t value, value_two;
  int op;  // enum scmp_compare
};

struct SeccompRule {
  std::vector<const char*> names;
  uint32_t action;  // SCMP_ACT_*
  std::vector<SeccompArg> args;
};

struct SeccompSpec {
  bool present = false;
  uint32_t default_action = 0;  // SCMP_ACT_*
  uint32_t flags = 0;           // SECCOMP_FILTER_FLAG_*
  const char* listener_path = "";
  const char* listener_metadata = "";
  std::vector<uint32_t> architectures;  // SCMP_ARCH_*
  std::vector<SeccompRule> rules;
};

struct CapabilitySets {
  uint64_t bounding = 0, effective = 0, inheritable = 0, permitted = 0, ambient = 0;
};

// A list such as "0-3,7" as the kernel's bit mask.
constexpr unsigned kMaxBits = 1024;
struct BitList {
  unsigned long words[kMaxBits / (8 * sizeof(unsigned long))] = {};
  size_t bytes = 0;  // of `words` that are in use; 0 = no list
};

struct MemoryPolicySpec {
  bool present = false;
  bool has_nodes = false;
  int mode = 0;  // MPOL_* with MPOL_F_*
  BitList nodes;
};

struct SchedulerSpec {
  bool present = false;
  int policy = 0, nice = 0, priority = 0;
  uint64_t flags = 0, runtime_ns = 0, deadline_ns = 0, period_ns = 0;
};

struct ProcessSpec {
  bool terminal = false;
  uint16_t console_rows = 0, console_columns = 0;
  uint32_t uid = 0, gid = 0;
  int umask = -1;  // -1 = 0022
  std::vector<uint32_t> additional_gids;
  std::vector<const char*> args, env;
  const char* cwd = "/";
  bool has_capabilities = false;
  CapabilitySets capabilities;
  std::vector<RlimitSpec> rlimits;
  bool no_new_privileges = false;
  bool has_oom_score_adj = false;
  int oom_score_adj = 0;
  const char* apparmor_profile = "";
  const char* selinux_label = "";
  SchedulerSpec scheduler;
  int io_priority = -1;  // ioprio_set(2) value, -1 = unchanged
  BitList initial_cpus, final_cpus;  // execCPUAffinity
};

// One cgroup v2 file to write, in order; made by the reader from linux.resources.
struct ResourceWrite {
  const char* controller;  // "memory"; what is missing where the file does not exist
  std::string file, value;
  const char* json_path;
  std::string other_file, other_value;  // as well, or instead where the first file cannot
};

struct NetDeviceSpec {
  const char *host_name, *name;  // name: in the container, "" = as on the host
};

struct IntelRdtSpec {
  bool present = false;
  bool has_monitoring = false;
  const char *clos_id = "", *l3_cache_schema = "", *mem_bw_schema = "";
  std::vector<const char*> schemata;
};

struct TimeOffset {
  bool present = false;
  int64_t seconds = 0;
  uint32_t nanoseconds = 0;
};

struct SpecDocument;  // owns the text

struct Spec {
  std::shared_ptr<const SpecDocument> document;
  const char* oci_version = "";
  const char* root_path = "";
  bool root_readonly = false;
  bool has_process = false;
  ProcessSpec process;
  const char *hostname = "", *domainname = "";
  std::vector<MountSpec> mounts;
  std::vector<HookSpec> prestart, create_runtime, create_container, start_container, poststart,
      poststop;
  std::vector<SysctlSpec> annotations;
  // linux.*
  std::vector<NamespaceSpec> namespaces;
  std::vector<IdMapping> uid_mappings, gid_mappings;
  TimeOffset monotonic, boottime;
  std::vector<DeviceSpec> devices;
  std::vector<DeviceRule> device_rules;
  const char* cgroups_path = "";
  std::vector<ResourceWrite> resources;
  SeccompSpec seccomp;
  uint64_t rootfs_propagation = 0;  // MS_SHARED ..., 0 = default (private)
  std::vector<const char*> masked_paths, readonly_paths;
  std::vector<SysctlSpec> sysctls;
  const char* mount_label = "";
  bool has_personality = false;
  unsigned long personality = 0;
  MemoryPolicySpec memory_policy;
  std::vector<NetDeviceSpec> net_devices;
  IntelRdtSpec intel_rdt;

  // The entry of a type, or null where the container shares the caller's.
  const NamespaceSpec* Namespace(int type) const {
    for (const NamespaceSpec& entry : namespaces) {
      if (entry.type == type) return &entry;
    }
    return nullptr;
  }
};

struct SpecError {
  std::string json_path;  // "process.user.uid"
  std::string message;    // "is not a number from 0 to 4294967295"
};

constexpr size_t kMaxSpecBytes = 8u << 20;
constexpr int kMaxSpecDepth = 64;

// Parses and checks config.json. Unknown properties are ignored, as runtime-spec config.md
// "Extensibility" asks; unknown values are refused.
[[nodiscard]] bool ReadSpec(std::string text, Spec* spec, SpecError* error);

// The same for a process object alone (exec).
[[nodiscard]] bool ReadProcess(std::string text, Spec* holder, SpecError* error);

// The same for linux.resources alone.
[[nodiscard]] bool ReadResources(std::string text, Spec* holder, SpecError* error);

}  // namespace runtime
