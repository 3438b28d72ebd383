#include "runtime/mount_options.h"

#include <string.h>
#include <sys/mount.h>

#include "runtime/spec_names.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif

namespace runtime {
namespace {

struct AttributeOption {
  const char* name;  // the r-variant ("rro") acts on the whole tree
  uint64_t set, clear;
};

// mount_setattr(2): changing the access-time setting means clearing all of MOUNT_ATTR__ATIME.
constexpr AttributeOption kAttributes[] = {
    {"ro", MOUNT_ATTR_RDONLY, 0},
    {"rw", 0, MOUNT_ATTR_RDONLY},
    {"nosuid", MOUNT_ATTR_NOSUID, 0},
    {"suid", 0, MOUNT_ATTR_NOSUID},
    {"nodev", MOUNT_ATTR_NODEV, 0},
    {"dev", 0, MOUNT_ATTR_NODEV},
    {"noexec", MOUNT_ATTR_NOEXEC, 0},
    {"exec", 0, MOUNT_ATTR_NOEXEC},
    {"nodiratime", MOUNT_ATTR_NODIRATIME, 0},
    {"diratime", 0, MOUNT_ATTR_NODIRATIME},
    {"relatime", MOUNT_ATTR_RELATIME, MOUNT_ATTR__ATIME},
    {"norelatime", 0, MOUNT_ATTR__ATIME},
    {"noatime", MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME},
    {"atime", 0, MOUNT_ATTR__ATIME},
    {"strictatime", MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME},
    {"nostrictatime", 0, MOUNT_ATTR__ATIME},
    {"nosymfollow", MOUNT_ATTR_NOSYMFOLLOW, 0},
    {"symfollow", 0, MOUNT_ATTR_NOSYMFOLLOW},
};

// Flags of the superblock: fsconfig flags for a new filesystem, no meaning for a bind mount.
constexpr const char* kSuperblock[] = {"sync",  "async",    "dirsync",    "lazytime", "nolazytime",
                                       "mand",  "nomand",   "iversion",   "noiversion"};
constexpr const char* kIgnored[] = {"defaults", "loud", "silent", "remount", "auto", "noauto"};

bool IsOneOf(const char* const* list, size_t count, const char* name) {
  for (size_t i = 0; i < count; i++) {
    if (strcmp(list[i], name) == 0) return true;
  }
  return false;
}

bool ApplyAttribute(const char* option, PlanMount* mount) {
  for (const AttributeOption& entry : kAttributes) {
    const bool is_recursive = option[0] == 'r' && strcmp(option + 1, entry.name) == 0;
    if (!is_recursive && strcmp(option, entry.name) != 0) continue;
    uint64_t& set = is_recursive ? mount->recursive_set : mount->set;
    uint64_t& clear = is_recursive ? mount->recursive_clear : mount->clear;
    // Later options win.
    set = (set & ~entry.clear) | entry.set;
    clear = (clear & ~entry.set) | entry.clear;
    return true;
  }
  return false;
}

}  // namespace

bool ApplyMountOptions(const MountSpec& spec, Arena* arena, PlanMount* mount, size_t* index,
                       std::string* message) {
  std::vector<const char*> filesystem_options;
  for (size_t i = 0; i < spec.options.size(); i++) {
    const char* option = spec.options[i];
    *index = i;
    if (strcmp(option, "bind") == 0 || strcmp(option, "rbind") == 0) {
      mount->kind = PlanMount::kBind;
      mount->recursive = mount->recursive || option[0] == 'r';
    } else if (const uint64_t propagation = PropagationByName(option); propagation != 0) {
      mount->propagation = propagation;
    } else if (strcmp(option, "tmpcopyup") == 0) {
      mount->copy_up = true;
    } else if (strcmp(option, "idmap") == 0) {
      mount->idmap = PlanMount::kIdmap;
    } else if (strcmp(option, "ridmap") == 0) {
      mount->idmap = PlanMount::kRecursiveIdmap;
    } else if (!ApplyAttribute(option, mount) &&
               !IsOneOf(kIgnored, std::size(kIgnored), option) && option[0] != '\0') {
      filesystem_options.push_back(option);
    }
  }
  if (strcmp(spec.type, "bind") == 0 || strcmp(spec.type, "rbind") == 0) {
    mount->kind = PlanMount::kBind;
    mount->recursive = mount->recursive || spec.type[0] == 'r';
  }
  if (mount->kind == PlanMount::kBind) {
    for (const char* option : filesystem_options) {
      if (IsOneOf(kSuperblock, std::size(kSuperblock), option)) continue;
      // mount(2) takes no data for MS_BIND, so other runtimes pass over "size=1k" and its like.
      // "idmap=..." is a mapping in crun's own words: passing over that would be unsafe.
      if (strchr(option, '=') != nullptr && strstr(option, "idmap=") == nullptr) {
        mount->ignored_option = option;
        continue;
      }
      for (size_t i = 0; i < spec.options.size(); i++) {
        if (spec.options[i] == option) *index = i;
      }
      *message = "is not an option of a bind mount";
      return false;
    }
    return true;
  }
  if (mount->label[0] != '\0') filesystem_options.push_back(mount->label);
  if (filesystem_options.size() > 0) mount->options = arena->List(filesystem_options);
  return true;
}

std::vector<const char*> KnownMountOptions() {
  static constexpr const char* kOthers[] = {
      "bind", "rbind", "private", "rprivate", "slave", "rslave", "shared", "rshared",
      "unbindable", "runbindable", "idmap", "ridmap", "tmpcopyup",
      "rro", "rrw", "rnosuid", "rsuid", "rnodev", "rdev", "rnoexec", "rexec",
      "rnodiratime", "rdiratime", "rrelatime", "rnorelatime", "rnoatime", "ratime",
      "rstrictatime", "rnostrictatime", "rnosymfollow", "rsymfollow"};
  std::vector<const char*> names;
  for (const AttributeOption& entry : kAttributes) names.push_back(entry.name);
  for (const char* name : kSuperblock) names.push_back(name);
  for (const char* name : kOthers) names.push_back(name);
  names.push_back("defaults");
  return names;
}

}  // namespace runtime
