#include "runtime/sources.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <utility>

#include "runtime/describe_report.h"
#include "runtime/overlay.h"
#include "runtime/spec_names.h"
#include "runtime/user_namespace.h"
#include "sys/files.h"
#include "sys/mount_api.h"
#include "sys/namespaces.h"

namespace runtime {
namespace {

// Relative paths of the spec are relative to the bundle (runtime-spec config.md, "root").
std::string InBundle(const LaunchRequest& request, const char* path) {
  return path[0] == '/' ? path : request.bundle + "/" + path;
}

// The container's user namespace for id-mapped mounts: the one that is joined, or one with the
// same maps as the one that will be new.
bool ContainerUserNamespace(const Plan& plan, Sources* sources, int* userns, Problem* problem) {
  if (sources->joined_user < 0 && !sources->mapped_user.valid()) {
    auto made = MakeUserNamespace(plan.spec.uid_mappings, plan.spec.gid_mappings);
    if (!made) return FailStep(Step::kUserMap, "make user namespace", made.failure(), problem);
    sources->mapped_user = std::move(*made);
  }
  *userns = sources->joined_user >= 0 ? sources->joined_user : sources->mapped_user.get();
  return true;
}

// The user namespace whose mappings an id-mapped mount has: its own, kept in `own`, or the container's.
bool MappingOf(const Plan& plan, const PlanMount& mount, Sources* sources, sys::UniqueFd* own,
               int* userns, Problem* problem) {
  if (mount.spec->uid_mappings.empty()) {
    return ContainerUserNamespace(plan, sources, userns, problem);
  }
  auto made = MakeUserNamespace(mount.spec->uid_mappings, mount.spec->gid_mappings);
  if (!made) {
    return FailStep(Step::kMount, "mount " + Quote(mount.destination) + ": map ids",
                    made.failure(), problem);
  }
  *own = std::move(*made);
  *userns = own->get();
  return true;
}

// mount_setattr(2), "ID-mapped mounts": the tree is detached and nobody has seen it yet.
bool MapIds(const Plan& plan, const PlanMount& mount, int tree, Sources* sources,
            Problem* problem) {
  if (mount.idmap == PlanMount::kNoIdmap) return true;
  const std::string doing = "mount " + Quote(mount.destination) + ": map ids";
  sys::UniqueFd own;
  int userns = -1;
  if (!MappingOf(plan, mount, sources, &own, &userns, problem)) return false;
  auto set = sys::mount_setattr_idmap(tree, mount.idmap == PlanMount::kRecursiveIdmap, userns);
  if (set) return true;
  FailStep(Step::kMount, doing, set.failure(), problem);
  if (set.failure().error == EINVAL) {
    problem->message += " (its file system maps no ids on this kernel; tmpfs does from Linux 6.3)";
  }
  return false;
}

bool OpenRoot(const LaunchRequest& request, const Plan& plan, Sources* sources, Problem* problem) {
  if (request.overlay.has_value()) {
    int userns = -1;
    if (request.overlay->is_idmapped &&
        !ContainerUserNamespace(plan, sources, &userns, problem)) {
      return false;
    }
    return MakeOverlay(*request.overlay, userns, &sources->root, problem);
  }
  const std::string path = InBundle(request, plan.spec.root_path);
  const std::string doing = "open root.path " + Quote(path);
  auto root = sys::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | AT_RECURSIVE);
  if (!root) return FailStep(Step::kRootfs, doing, root.failure(), problem);
  struct stat status;
  if (::fstat(root->get(), &status) < 0 || !S_ISDIR(status.st_mode)) {
    return FailStep(Step::kRootfs, doing, {"open_tree", ENOTDIR}, problem);
  }
  // A clone of a shared mount is in its peer group: what is mounted in the container would
  // appear on the host. "slave" keeps receiving; "shared" becomes so at the end, in the child.
  const uint64_t propagation =
      (plan.root_propagation & MS_SLAVE) != 0 ? uint64_t{MS_SLAVE} : uint64_t{MS_PRIVATE};
  if (auto set = sys::mount_setattr(root->get(), "", AT_EMPTY_PATH | AT_RECURSIVE, 0, 0, propagation);
      !set) {
    return FailStep(Step::kRootfs, doing, set.failure(), problem);
  }
  sources->root = std::move(*root);
  return true;
}

// The flags of a bind mount are set on the detached tree, before anybody can see it.
sys::Result<sys::UniqueFd> OpenBind(const PlanMount& mount, const std::string& source) {
  auto tree = sys::open_tree(AT_FDCWD, source.c_str(),
                             OPEN_TREE_CLONE | (mount.recursive ? unsigned{AT_RECURSIVE} : 0u));
  if (!tree) return tree;
  const uint64_t propagation = mount.propagation & ~uint64_t{MS_REC};
  auto set = sys::mount_setattr(tree->get(), "", AT_EMPTY_PATH | AT_RECURSIVE, mount.recursive_set,
                                mount.recursive_clear,
                                propagation != 0 ? propagation : uint64_t{MS_PRIVATE});
  if (set && (mount.set | mount.clear) != 0) {
    set = sys::mount_setattr(tree->get(), "", AT_EMPTY_PATH, mount.set, mount.clear, 0);
  }
  if (!set) return set.failure();
  return tree;
}

// An overlay of lower layers only is read-only, whatever its flags say.
bool OpenLayers(const LaunchRequest& request, const Plan& plan, const PlanMount& mount,
                Sources* sources, sys::UniqueFd* tree, Problem* problem) {
  OverlayRoot overlay;
  overlay.is_volatile = false;
  for (const char* const* option = mount.options; *option != nullptr; option++) {
    overlay.lower.push_back(InBundle(request, *option + strlen(kLayerOption)));
  }
  sys::UniqueFd own;
  int userns = -1;
  if (mount.idmap != PlanMount::kNoIdmap &&
      !MappingOf(plan, mount, sources, &own, &userns, problem)) {
    return false;
  }
  const std::string doing = "mount " + Quote(mount.destination);
  if (!MakeOverlay(overlay, userns, tree, problem)) {
    problem->step = StepName(Step::kMount);
    problem->message = doing + ": " + problem->message;
    return false;
  }
  auto set = sys::mount_setattr(tree->get(), "", AT_EMPTY_PATH, mount.set, mount.clear, MS_PRIVATE);
  return set || FailStep(Step::kMount, doing, set.failure(), problem);
}

bool IsRootDirectory(const std::string& path) {
  struct stat root, other;
  return ::stat("/", &root) == 0 && ::stat(path.c_str(), &other) == 0 && root.st_dev == other.st_dev &&
         root.st_ino == other.st_ino;
}

// In a user namespace the child may not reach the source, and in one that it joins it would find
// another. What is below /proc is a descriptor of some process, and of its mount namespace. On "/"
// itself the child has attached the container's root, which a recursive clone would bring along.
bool IsLeftToChild(const LaunchRequest& request, const Plan& plan, const PlanMount& mount,
                   const std::string& source) {
  return request.keeps_mount_order && !plan.has_userns && (plan.new_namespaces & CLONE_NEWNS) != 0 &&
         mount.idmap == PlanMount::kNoIdmap && source.rfind("/proc/", 0) != 0 &&
         !IsRootDirectory(source);
}

// Nothing is made where a source is missing.
bool LeaveToChild(const PlanMount& mount, const std::string& source, Sources* sources,
                  Problem* problem) {
  auto found = sys::open_at(AT_FDCWD, source.c_str(), O_PATH);
  if (!found) {
    return FailStep(Step::kMount,
                    "mount " + Quote(mount.destination) + ": open bind source " + Quote(source),
                    found.failure(), problem);
  }
  sources->bind_sources.push_back(source);
  sources->bind_paths.back() = sources->bind_sources.back().c_str();
  sources->mounts.push_back(-1);
  return true;
}

bool OpenMounts(const LaunchRequest& request, const Plan& plan, Sources* sources,
                Problem* problem) {
  sources->mounts.reserve(plan.mounts.size());
  sources->bind_sources.reserve(plan.mounts.size());  // never moved: bind_paths points into it
  for (const PlanMount& mount : plan.mounts) {
    sources->bind_paths.push_back(nullptr);
    if (mount.kind == PlanMount::kFilesystem) {
      sources->mounts.push_back(-1);
      continue;
    }
    if (mount.kind == PlanMount::kLayers) {
      sys::UniqueFd layers;
      if (!OpenLayers(request, plan, mount, sources, &layers, problem)) return false;
      sources->mounts.push_back(layers.get());
      sources->owned.push_back(std::move(layers));
      continue;
    }
    const std::string source = InBundle(request, mount.source);
    if (IsLeftToChild(request, plan, mount, source)) {
      if (!LeaveToChild(mount, source, sources, problem)) return false;
      continue;
    }
    auto tree = OpenBind(mount, source);
    if (!tree) {
      return FailStep(Step::kMount,
                      "mount " + Quote(mount.destination) + ": open bind source " + Quote(source),
                      tree.failure(), problem);
    }
    if (!MapIds(plan, mount, tree->get(), sources, problem)) return false;
    sources->mounts.push_back(tree->get());
    sources->owned.push_back(std::move(*tree));
  }
  return true;
}

bool OpenDevices(const Plan& plan, Sources* sources, Problem* problem) {
  if (!plan.has_userns) return true;
  for (const PlanDevice& device : plan.devices) {
    auto tree = sys::open_tree(AT_FDCWD, device.path, OPEN_TREE_CLONE);
    if (!tree) {
      return FailStep(Step::kDevice, "open device " + Quote(device.path), tree.failure(), problem);
    }
    sources->devices.push_back(tree->get());
    sources->owned.push_back(std::move(*tree));
  }
  return true;
}

bool OpenJoined(const Plan& plan, Sources* sources, Problem* problem) {
  for (const NamespaceSpec& entry : plan.joined) {
    const std::string doing =
        std::string("open ") + NamespaceName(entry.type) + " namespace " + Quote(entry.path);
    auto fd = sys::open_at(AT_FDCWD, entry.path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
    if (!fd) return FailStep(Step::kNamespace, doing, fd.failure(), problem);
    auto type = sys::namespace_type(fd->get());
    if (!type || *type != entry.type) {
      return FailStep(Step::kNamespace, doing, {"ioctl", EINVAL}, problem);
    }
    sources->joined.push_back(fd->get());
    if (entry.type == CLONE_NEWPID) sources->joined_pid = fd->get();
    if (entry.type == CLONE_NEWUSER) sources->joined_user = fd->get();
    sources->owned.push_back(std::move(*fd));
  }
  return true;
}

}  // namespace

bool OpenNullDevice(sys::UniqueFd* null_device, Problem* problem) {
  auto fd = sys::open_at(AT_FDCWD, "/dev/null", O_RDWR | O_NOFOLLOW | O_NOCTTY);
  if (!fd) return FailStep(Step::kSetup, "open \"/dev/null\"", fd.failure(), problem);
  struct stat status;
  if (::fstat(fd->get(), &status) < 0 || !S_ISCHR(status.st_mode) ||
      status.st_rdev != makedev(1, 3)) {
    return FailStep(Step::kSetup, "\"/dev/null\" is not the null device", {"fstat", ENODEV}, problem);
  }
  *null_device = std::move(*fd);
  return true;
}

bool OpenSources(const LaunchRequest& request, const Plan& plan, Sources* sources,
                 Problem* problem) {
  if (!OpenJoined(plan, sources, problem) || !OpenRoot(request, plan, sources, problem) ||
      !OpenMounts(request, plan, sources, problem) || !OpenDevices(plan, sources, problem) ||
      !OpenNullDevice(&sources->null_device, problem)) {
    return false;
  }
  if (!plan.masked_paths.empty()) {
    auto mount = sys::open_tree(sources->null_device.get(), "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
    if (!mount) return FailStep(Step::kMask, "clone \"/dev/null\"", mount.failure(), problem);
    sources->null_mount = std::move(*mount);
  }
  if (!request.cgroup.empty()) {
    auto fd = sys::open_at(AT_FDCWD, request.cgroup.c_str(), O_PATH | O_DIRECTORY);
    if (!fd) {
      return FailStep(Step::kSetup, "open cgroup " + Quote(request.cgroup), fd.failure(), problem);
    }
    sources->cgroup = std::move(*fd);
  }
  return true;
}

}  // namespace runtime
