#include "runtime/plan.h"

#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "runtime/mount_options.h"
#include "runtime/spec_names.h"

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

namespace runtime {
namespace {

constexpr size_t kBlockBytes = 4096;
constexpr size_t kMaxMounts = 4096;
constexpr const char* kDefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

// Joining order: the user namespace first, since it gives the rights over the others it owns;
// the mount namespace last, since the others are given by path (their descriptors are open
// already, but nothing of the old root may be looked up after it).
constexpr int kJoinOrder[] = {CLONE_NEWUSER, CLONE_NEWIPC,    CLONE_NEWUTS,  CLONE_NEWNET,
                              CLONE_NEWPID,  CLONE_NEWCGROUP, CLONE_NEWTIME, CLONE_NEWNS};

void PlanNamespaces(Plan* plan) {
  for (const int type : kJoinOrder) {
    const NamespaceSpec* entry = plan->spec.Namespace(type);
    if (entry == nullptr) continue;
    if (entry->path[0] == '\0') {
      plan->new_namespaces |= static_cast<uint64_t>(type);
    } else {
      plan->joined.push_back(*entry);
    }
  }
  plan->has_userns = plan->spec.Namespace(CLONE_NEWUSER) != nullptr;
  plan->has_mountns = plan->spec.Namespace(CLONE_NEWNS) != nullptr;
}

// The mapping of an id-mapped mount is its own, or the container's where it has none.
bool CheckIdmap(const Spec& spec, const PlanMount& mount, const std::string& path,
                SpecError* error) {
  if (mount.kind == PlanMount::kFilesystem) {
    *error = {path, "asks for an id-mapped mount, and is no bind mount"};
    return false;
  }
  if (mount.spec->uid_mappings.empty() && spec.Namespace(CLONE_NEWUSER) == nullptr) {
    *error = {path + ".uidMappings", "is missing, and there is no user namespace to take it from"};
    return false;
  }
  return true;
}

bool IsLayersOnly(const PlanMount& mount) {
  if (mount.kind != PlanMount::kFilesystem || strcmp(mount.type, "overlay") != 0) return false;
  if (mount.options == nullptr) return false;
  for (const char* const* option = mount.options; *option != nullptr; option++) {
    if (strncmp(*option, kLayerOption, strlen(kLayerOption)) != 0) return false;
  }
  return true;
}

// proc, sysfs and the cgroup tree label their own files; the others take one label for all.
bool TakesLabel(const char* type) {
  for (const char* own : {"proc", "sysfs", "cgroup2"}) {
    if (strcmp(type, own) == 0) return false;
  }
  return true;
}

bool PlanMounts(Plan* plan, SpecError* error) {
  const std::vector<MountSpec>& specs = plan->spec.mounts;
  if (specs.size() > kMaxMounts) {
    *error = {"mounts", "has more than 4096 elements"};
    return false;
  }
  plan->mounts.reserve(specs.size());
  for (size_t i = 0; i < specs.size(); i++) {
    const MountSpec& spec = specs[i];
    const std::string path = "mounts[" + std::to_string(i) + "]";
    PlanMount mount;
    mount.destination = spec.destination;
    mount.source = spec.source;
    mount.spec = &spec;
    size_t option = 0;
    std::string message;
    const char* type = strcmp(spec.type, "cgroup") == 0 ? "cgroup2" : spec.type;
    if (plan->spec.mount_label[0] != '\0' && TakesLabel(type)) {
      mount.label = plan->arena.Join({"context=", plan->spec.mount_label});
    }
    if (!ApplyMountOptions(spec, &plan->arena, &mount, &option, &message)) {
      *error = {path + ".options[" + std::to_string(option) + "]", message};
      return false;
    }
    if (mount.ignored_option != nullptr) {
      plan->warnings.push_back(path + ".options: ignoring \"" + mount.ignored_option +
                               "\": a bind mount has no file system options");
    }
    // Kernels know the unified hierarchy as "cgroup2"; specs say "cgroup" for either.
    mount.type = type;
    if (IsLayersOnly(mount)) mount.kind = PlanMount::kLayers;
    if (mount.kind == PlanMount::kBind && spec.source[0] == '\0') {
      *error = {path + ".source", "is missing or empty"};
      return false;
    }
    if (mount.kind == PlanMount::kFilesystem && spec.type[0] == '\0') {
      *error = {path + ".type", "is missing or empty"};
      return false;
    }
    if (mount.copy_up && mount.kind != PlanMount::kBind && strcmp(mount.type, "tmpfs") != 0) {
      *error = {path + ".options", "has tmpcopyup, which is for tmpfs and empty bind sources alone"};
      return false;
    }
    if (!spec.uid_mappings.empty() && mount.idmap == PlanMount::kNoIdmap) {
      mount.idmap = PlanMount::kIdmap;
    }
    if (mount.idmap != PlanMount::kNoIdmap && !CheckIdmap(plan->spec, mount, path, error)) {
      return false;
    }
    plan->mounts.push_back(mount);
  }
  return true;
}

// runtime-spec config-linux.md, "Default Devices", and the links of "Default Filesystems".
// With the host's /dev (a bind mount) in the place there is nothing to make.
void PlanDevices(Plan* plan) {
  bool has_host_dev = false;
  for (const PlanMount& mount : plan->mounts) {
    if (strcmp(mount.destination, "/dev") == 0 || strcmp(mount.destination, "/dev/") == 0) {
      has_host_dev = mount.kind == PlanMount::kBind;
    }
  }
  static constexpr struct {
    const char* path;
    unsigned major, minor;
  } kDefaults[] = {{"/dev/null", 1, 3},    {"/dev/zero", 1, 5},   {"/dev/full", 1, 7},
                   {"/dev/random", 1, 8},  {"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}};
  if (!has_host_dev) {
    for (const auto& device : kDefaults) {
      bool is_given = false;
      for (const DeviceSpec& other : plan->spec.devices) {
        is_given = is_given || strcmp(other.path, device.path) == 0;
      }
      if (is_given) continue;
      plan->devices.push_back(
          {device.path, S_IFCHR | 0666, makedev(device.major, device.minor), 0, 0});
    }
    plan->symlinks = {{"/dev/fd", "/proc/self/fd"},
                      {"/dev/stdin", "/proc/self/fd/0"},
                      {"/dev/stdout", "/proc/self/fd/1"},
                      {"/dev/stderr", "/proc/self/fd/2"},
                      {"/dev/ptmx", "pts/ptmx"}};
  }
  for (const DeviceSpec& device : plan->spec.devices) {
    const mode_t kind = device.type == 'c' ? S_IFCHR : device.type == 'b' ? S_IFBLK : S_IFIFO;
    plan->devices.push_back({device.path, kind | device.mode, makedev(device.major, device.minor),
                             device.uid, device.gid});
  }
}

// sysctl(8): the first separator decides; with "." the two are exchanged, so that
// "net.ipv4.conf.eth0/1.forwarding" can name the interface "eth0.1".
void PlanSysctls(Plan* plan) {
  for (const SysctlSpec& sysctl : plan->spec.sysctls) {
    std::string path = sysctl.key;
    if (path[path.find_first_of("./")] == '.') {
      for (char& c : path) c = c == '.' ? '/' : c == '/' ? '.' : c;
    }
    plan->sysctls.push_back({plan->arena.Join({"/proc/sys/", path}), sysctl.value});
  }
}

// execvp(3): a name with a slash is a path; otherwise PATH of the container's environment.
void PlanPrograms(const ProcessSpec& spec, Arena* arena, PlanProcess* process) {
  std::vector<const char*> programs;
  const char* name = spec.args[0];
  if (strchr(name, '/') != nullptr || name[0] == '\0') {
    programs.push_back(name);
  } else {
    const char* path = kDefaultPath;
    for (const char* entry : spec.env) {
      if (strncmp(entry, "PATH=", 5) == 0) path = entry + 5;
    }
    for (;;) {
      const char* end = strchrnul(path, ':');
      const std::string_view directory(path, static_cast<size_t>(end - path));
      programs.push_back(directory.empty() ? arena->Join({"./", name})
                                           : arena->Join({directory, "/", name}));
      if (*end == '\0') break;
      path = end + 1;
    }
  }
  process->programs = arena->List(programs);
}

void PlanProcessOf(const ProcessSpec& spec, Arena* arena, PlanProcess* process) {
  process->argv = arena->List(spec.args);
  process->envp = arena->List(spec.env);
  PlanPrograms(spec, arena, process);
  process->cwd = spec.cwd;
  process->uid = spec.uid;
  process->gid = spec.gid;
  process->groups.assign(spec.additional_gids.begin(), spec.additional_gids.end());
  process->umask = spec.umask < 0 ? 0022 : static_cast<mode_t>(spec.umask);
  process->has_capabilities = spec.has_capabilities;
  process->capabilities = spec.capabilities;
  process->rlimits = spec.rlimits;
  process->no_new_privileges = spec.no_new_privileges;
  process->has_oom_score_adj = spec.has_oom_score_adj;
  if (spec.has_oom_score_adj) {
    process->oom_score_adj = arena->Join({std::to_string(spec.oom_score_adj)});
  }
  process->terminal = spec.terminal;
  process->rows = spec.console_rows;
  process->columns = spec.console_columns;
  process->apparmor_profile = spec.apparmor_profile;
  process->selinux_label = spec.selinux_label;
  process->scheduler = spec.scheduler;
  process->io_priority = spec.io_priority;
}

}  // namespace

void* Arena::Take(size_t bytes, size_t alignment) {
  const size_t padding = (alignment - reinterpret_cast<uintptr_t>(next_) % alignment) % alignment;
  if (next_ == nullptr || bytes + padding > left_) {
    left_ = bytes + alignment > kBlockBytes ? bytes + alignment : kBlockBytes;
    blocks_.push_back(std::unique_ptr<char[]>(new char[left_]));
    next_ = blocks_.back().get();
    return Take(bytes, alignment);
  }
  void* taken = next_ + padding;
  next_ += bytes + padding;
  left_ -= bytes + padding;
  return taken;
}

const char* Arena::Join(std::initializer_list<std::string_view> parts) {
  size_t bytes = 1;
  for (const std::string_view part : parts) bytes += part.size();
  char* text = static_cast<char*>(Take(bytes, 1));
  char* at = text;
  for (const std::string_view part : parts) {
    memcpy(at, part.data(), part.size());
    at += part.size();
  }
  *at = '\0';
  return text;
}

const char* const* Arena::List(const std::vector<const char*>& strings) {
  const size_t bytes = (strings.size() + 1) * sizeof(char*);
  auto** list = static_cast<const char**>(Take(bytes, alignof(char*)));
  for (size_t i = 0; i < strings.size(); i++) list[i] = strings[i];
  list[strings.size()] = nullptr;
  return list;
}

bool MakePlan(Spec spec, Plan* plan, SpecError* error) {
  plan->spec = std::move(spec);
  if (!plan->spec.has_process) {
    *error = {"process", "is missing"};
    return false;
  }
  PlanNamespaces(plan);
  if (plan->has_userns && !plan->has_mountns) {
    *error = {"linux.namespaces", "has a user namespace, which cannot mount in the caller's mount namespace"};
    return false;
  }
  if (!PlanMounts(plan, error)) return false;
  PlanDevices(plan);
  PlanSysctls(plan);
  plan->masked_paths = plan->spec.masked_paths;
  plan->readonly_paths = plan->spec.readonly_paths;
  plan->root_readonly = plan->spec.root_readonly;
  plan->root_propagation = plan->spec.rootfs_propagation;
  plan->hostname = plan->spec.hostname;
  plan->domainname = plan->spec.domainname;
  plan->has_personality = plan->spec.has_personality;
  plan->personality = plan->spec.personality;
  plan->memory_policy = plan->spec.memory_policy;
  PlanProcessOf(plan->spec.process, &plan->arena, &plan->process);
  return true;
}

bool MakeExecPlan(Spec holder, Plan* plan, SpecError* error) {
  plan->spec = std::move(holder);
  if (!plan->spec.has_process) {
    *error = {"process", "is missing"};
    return false;
  }
  PlanProcessOf(plan->spec.process, &plan->arena, &plan->process);
  plan->process.final_cpus = plan->spec.process.final_cpus;  // for further processes alone
  return true;
}

}  // namespace runtime
