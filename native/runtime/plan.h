// The plan: what the child does, as flat lists, made from the spec before anything is cloned.
//
// Pure: making it touches no file and no kernel object, so plans are compared with golden
// texts without root. It holds no descriptors; the parent opens what a plan names and passes
// descriptors beside it (child.h). Strings point into the spec's document or the plan's arena.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/spec.h"

namespace runtime {

// Bytes that live as long as the plan, in few allocations.
class Arena {
 public:
  // A copy of the parts, joined and zero-terminated.
  const char* Join(std::initializer_list<std::string_view> parts);
  // A null-terminated copy of a list of strings.
  const char* const* List(const std::vector<const char*>& strings);

 private:
  void* Take(size_t bytes, size_t alignment);
  std::vector<std::unique_ptr<char[]>> blocks_;
  size_t left_ = 0;
  char* next_ = nullptr;
};

constexpr char kLayerOption[] = "lowerdir+=";

struct PlanMount {
  // kLayers: an overlay of nothing but `lowerdir+` layers. The parent makes it: it opens them by
  // descriptor, so that neither long paths nor kernels without that option are a matter, and may
  // map their ids, which a process in a user namespace may not.
  enum Kind : uint8_t { kBind, kFilesystem, kLayers };
  Kind kind = kFilesystem;
  bool recursive = false;  // rbind
  const char* destination = "";
  const char* type = "";
  const char* source = "";
  const char* const* options = nullptr;  // for fsconfig: "key" or "key=value", null-terminated
  uint64_t set = 0, clear = 0;           // MOUNT_ATTR_* of the mount itself
  uint64_t recursive_set = 0, recursive_clear = 0;
  uint64_t propagation = 0;  // MS_SHARED ..., with MS_REC; 0 = private
  bool copy_up = false;      // tmpcopyup
  const char* label = "";    // SELinux, "context=..."; a further option of a filesystem
  enum Idmap : uint8_t { kNoIdmap, kIdmap, kRecursiveIdmap };
  Idmap idmap = kNoIdmap;
  const MountSpec* spec = nullptr;  // its id mappings
  const char* ignored_option = nullptr;  // of a file system, where this is a bind mount
};

struct PlanDevice {
  const char* path;
  mode_t mode;  // with S_IFCHR, S_IFBLK or S_IFIFO
  dev_t device;
  uid_t uid;
  gid_t gid;
};

struct PlanSymlink {
  const char *path, *target;
};

struct PlanFile {  // a file below /proc/sys to write
  const char *path, *value;
};

struct PlanProcess {
  const char* const* argv = nullptr;
  const char* const* envp = nullptr;
  const char* const* programs = nullptr;  // paths to try, in order
  const char* cwd = "/";
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
  mode_t umask = 0022;
  bool has_capabilities = false;
  CapabilitySets capabilities;
  std::vector<RlimitSpec> rlimits;
  bool no_new_privileges = false;
  bool has_oom_score_adj = false;
  const char* oom_score_adj = "";
  bool terminal = false;
  uint16_t rows = 0, columns = 0;
  const char* apparmor_profile = "";
  const char* selinux_label = "";
  SchedulerSpec scheduler;
  int io_priority = -1;
  BitList final_cpus;
};

struct Plan {
  Spec spec;  // what the strings point into, and what the parent needs besides
  std::shared_ptr<const SpecDocument> container_document;  // exec: of the profile taken from it
  Arena arena;
  uint64_t new_namespaces = 0;        // CLONE_NEW*, all that are not joined
  std::vector<NamespaceSpec> joined;  // in the order of joining
  bool has_userns = false;            // new or joined: device nodes are bound, not made
  bool has_mountns = false;           // else the rootfs is a tree that is attached nowhere
  bool root_readonly = false;
  uint64_t root_propagation = 0;
  std::vector<PlanMount> mounts;
  std::vector<PlanDevice> devices;
  std::vector<PlanSymlink> symlinks;
  std::vector<const char*> masked_paths, readonly_paths;
  std::vector<PlanFile> sysctls;
  const char *hostname = "", *domainname = "";
  bool has_personality = false;
  unsigned long personality = 0;
  MemoryPolicySpec memory_policy;
  PlanProcess process;
  std::vector<std::string> warnings;  // one sentence each: what is passed over
};

// Makes the plan of a container. False: the spec asks for something impossible; *error names it.
[[nodiscard]] bool MakePlan(Spec spec, Plan* plan, SpecError* error);

// Makes the plan of a further process: only `process` (and the document) is used.
[[nodiscard]] bool MakeExecPlan(Spec holder, Plan* plan, SpecError* error);

// One line per operation, for golden tests and for `--debug`.
std::string PrintPlan(const Plan& plan);

}  // namespace runtime
