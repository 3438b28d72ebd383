#include "runtime/child_rootfs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <termios.h>
#include <unistd.h>

#include "runtime/child_calls.h"

#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

namespace runtime::child {
namespace {

constexpr long kDevptsMagic = 0x1cd1;  // DEVPTS_SUPER_MAGIC
constexpr int kReadonlyTmpfsAttributes =
    MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;

struct stat StatOf(int fd) {
  struct stat status;
  if (fstat(fd, &status) < 0) FailErrno(Call::fstat_);
  return status;
}

constexpr unsigned kCloneFd = OPEN_TREE_CLONE | AT_EMPTY_PATH;

unsigned RecursiveFlag(const PlanMount& mount) { return mount.recursive ? unsigned{AT_RECURSIVE} : 0u; }

// Once everything here is private, a clone no longer has the propagation of its source; those
// that ask for it are cloned before.
void HoldPropagatingBinds(const ChildContext& context) {
  if (context.bind_paths == nullptr) return;
  for (size_t i = 0; i < context.plan->mounts.size(); i++) {
    const PlanMount& mount = context.plan->mounts[i];
    if (context.bind_paths[i] == nullptr || (mount.propagation & (MS_SHARED | MS_SLAVE)) == 0) continue;
    At(Step::kMount, static_cast<int32_t>(i));
    context.mount_sources[i] =
        OpenTree(AT_FDCWD, context.bind_paths[i], OPEN_TREE_CLONE | RecursiveFlag(mount));
  }
}

// Since Linux 6.8 mountinfo is sorted by the age of a mount: cloned in its turn, a bind mount
// stands where the spec has it.
int CloneBind(const ChildContext& context, int32_t index) {
  const PlanMount& mount = context.plan->mounts[static_cast<size_t>(index)];
  int source = context.mount_sources[index];
  if (source < 0) {
    source = OpenTree(AT_FDCWD, context.bind_paths[index], OPEN_TREE_CLONE | RecursiveFlag(mount));
  } else if (const long again = syscall(SYS_open_tree, source, "",
                                        kCloneFd | OPEN_TREE_CLOEXEC | RecursiveFlag(mount));
             again >= 0) {  // EINVAL: before Linux 6.15 detached mounts are not cloned
    close(source);
    source = static_cast<int>(again);
  }
  const uint64_t propagation = mount.propagation & ~uint64_t{MS_REC};
  SetMountAttributes(source, true, mount.recursive_set, mount.recursive_clear,
                     propagation != 0 ? propagation : uint64_t{MS_PRIVATE});
  if ((mount.set | mount.clear) != 0) SetMountAttributes(source, false, mount.set, mount.clear, 0);
  return source;
}

void MountOne(const ChildContext& context, int32_t index) {
  At(Step::kMount, index);
  const PlanMount& mount = context.plan->mounts[static_cast<size_t>(index)];
  const bool is_child_bind = context.bind_paths != nullptr && context.bind_paths[index] != nullptr;
  int source = is_child_bind ? CloneBind(context, index) : context.mount_sources[index];
  const bool is_bind = source >= 0;
  Make make = Make::kDirectory;
  if (is_bind) {
    if (!S_ISDIR(StatOf(source).st_mode)) make = Make::kFile;
  } else {
    source = MakeMount(mount.type, mount.source, mount.options, mount.set);
    if (mount.recursive_set != 0) {
      SetMountAttributes(source, true, mount.recursive_set, mount.recursive_clear, 0);
    }
  }
  Call call = Call::none_;
  const int target = Resolve(context.root, mount.destination, make, &call);
  if (target < 0) FailErrno(call);
  if (mount.copy_up) CopyUp(target, source);
  MoveOnto(source, target);
  if (!is_bind && mount.propagation != 0) {
    SetMountAttributes(source, (mount.propagation & MS_REC) != 0, 0, 0,
                       mount.propagation & ~uint64_t{MS_REC});
  }
  close(target);
  close(source);
}

// In a user namespace mknod(2) is refused, so the host's node is bound on a file.
void BindDevice(const ChildContext& context, int32_t index) {
  Call call = Call::none_;
  const PlanDevice& device = context.plan->devices[static_cast<size_t>(index)];
  const int target = Resolve(context.root, device.path, Make::kFile, &call);
  if (target < 0) FailErrno(call);
  MoveOnto(context.device_sources[index], target);
  close(target);
}

void MakeDevice(const ChildContext& context, int32_t index) {
  At(Step::kDevice, index);
  if (context.device_sources != nullptr && context.device_sources[index] >= 0) {
    return BindDevice(context, index);
  }
  const PlanDevice& device = context.plan->devices[static_cast<size_t>(index)];
  const char* name;
  Call call = Call::none_;
  const int parent = ResolveParent(context.root, device.path, &name, &call);
  if (parent < 0) FailErrno(call);
  if (syscall(SYS_mknodat, parent, name, device.mode, device.device) < 0) {
    if (errno != EEXIST) FailErrno(Call::mknodat_);
    // What is there already must be what was asked for: an image may bring its own /dev.
    struct stat status;
    if (syscall(SYS_newfstatat, parent, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
      FailErrno(Call::fstat_);
    }
    if ((status.st_mode & S_IFMT) != (device.mode & S_IFMT) || status.st_rdev != device.device) {
      Fail(Call::mknodat_, EEXIST);
    }
  }
  if ((device.uid != 0 || device.gid != 0) &&
      syscall(SYS_fchownat, parent, name, device.uid, device.gid, AT_SYMLINK_NOFOLLOW) < 0) {
    FailErrno(Call::fchownat_);
  }
  close(parent);
}

void MakeSymlink(const ChildContext& context, int32_t index) {
  At(Step::kSymlink, index);
  const PlanSymlink& link = context.plan->symlinks[static_cast<size_t>(index)];
  const char* name;
  Call call = Call::none_;
  const int parent = ResolveParent(context.root, link.path, &name, &call);
  if (parent < 0) FailErrno(call);
  if (syscall(SYS_symlinkat, link.target, parent, name) < 0 && errno != EEXIST) {
    FailErrno(Call::symlinkat_);
  }
  close(parent);
}

// The pty comes from the container's own devpts, checked to be one: an image may have put
// anything at /dev/ptmx (the class of CVE-2025-52565). The slave is taken from the master
// (TIOCGPTPEER), never opened by a name.
int OpenTerminal(const ChildContext& context) {
  At(Step::kTerminal);
  const PlanProcess& process = context.plan->process;
  const int master =
      OpenInRoot(context.root, "/dev/pts/ptmx", O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS);
  if (master < 0) FailErrno(Call::openat2_);
  struct statfs filesystem;
  if (fstatfs(master, &filesystem) < 0) FailErrno(Call::fstatfs_);
  if (filesystem.f_type != kDevptsMagic || StatOf(master).st_rdev != makedev(5, 2)) {
    Fail(Call::fstatfs_, ENODEV);
  }
  int unlocked = 0;
  if (ioctl(master, TIOCSPTLCK, &unlocked) < 0) FailErrno(Call::ioctl_);
  const int slave = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (slave < 0) FailErrno(Call::ioctl_);
  if (process.rows != 0 || process.columns != 0) {
    struct winsize size;
    memset(&size, 0, sizeof size);
    size.ws_row = process.rows;
    size.ws_col = process.columns;
    if (ioctl(slave, TIOCSWINSZ, &size) < 0) FailErrno(Call::ioctl_);
  }
  if (process.uid != 0 && fchown(slave, process.uid, static_cast<gid_t>(-1)) < 0 &&
      errno != EINVAL && errno != EPERM) {
    FailErrno(Call::fchown_);
  }
  Tell(ReportKind::kTerminal, master);
  close(master);
  return slave;
}

void MountConsole(const ChildContext& context, int slave) {
  const char* name;
  Call call = Call::none_;
  const int parent = ResolveParent(context.root, "/dev/console", &name, &call);
  if (parent < 0) FailErrno(call);
  const long made = syscall(SYS_openat, parent, name,
                            O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0620);
  if (made >= 0) close(static_cast<int>(made));
  // The object itself, never what a link of the image points to.
  const int target = static_cast<int>(syscall(SYS_openat, parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC));
  if (target < 0) FailErrno(Call::openat_);
  const mode_t kind = StatOf(target).st_mode & S_IFMT;
  if (kind != S_IFREG && kind != S_IFCHR) Fail(Call::openat_, EEXIST);
  const int mount = OpenTree(slave, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  MoveOnto(mount, target);
  close(mount);
  close(target);
  close(parent);
}

// Directories get one empty read-only tmpfs, files the host's /dev/null. The second and later
// masks are clones of the first, which is attached by then: only Linux 6.15 clones detached
// mounts. The target is resolved inside the root once and mounted on by descriptor, so nothing
// can be exchanged in between (the class of CVE-2025-31133).
void MaskPaths(const ChildContext& context) {
  int directory_mask = -1;
  int file_mask = -1;
  for (size_t i = 0; i < context.plan->masked_paths.size(); i++) {
    At(Step::kMask, static_cast<int32_t>(i));
    Call call = Call::none_;
    const int target = Resolve(context.root, context.plan->masked_paths[i], Make::kNothing, &call);
    if (target < 0 && (errno == ENOENT || errno == ENOTDIR)) continue;
    if (target < 0) FailErrno(call);
    const bool is_directory = S_ISDIR(StatOf(target).st_mode);
    int& mask = is_directory ? directory_mask : file_mask;
    int mount;
    if (mask >= 0) {
      mount = OpenTree(mask, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
    } else if (is_directory) {
      static constexpr const char* kOptions[] = {"size=0", "nr_inodes=1", nullptr};
      mount = mask = MakeMount("tmpfs", "", kOptions, kReadonlyTmpfsAttributes);
    } else {
      mount = mask = context.null_mount;
    }
    MoveOnto(mount, target);
    if (mount != mask) close(mount);
    close(target);
  }
}

void MakePathsReadonly(const ChildContext& context) {
  for (size_t i = 0; i < context.plan->readonly_paths.size(); i++) {
    At(Step::kReadonlyPath, static_cast<int32_t>(i));
    Call call = Call::none_;
    const int target =
        Resolve(context.root, context.plan->readonly_paths[i], Make::kNothing, &call);
    if (target < 0 && (errno == ENOENT || errno == ENOTDIR)) continue;
    if (target < 0) FailErrno(call);
    const int mount = OpenTree(target, "", OPEN_TREE_CLONE | AT_RECURSIVE | AT_EMPTY_PATH);
    SetMountAttributes(mount, true, MOUNT_ATTR_RDONLY, 0, 0);
    MoveOnto(mount, target);
    close(mount);
    close(target);
  }
}

// The root is attached over "/" of the private mount namespace: no directory has to exist for
// it. pivot_root(".", ".") then stacks the old root over the new one, from where it is
// detached (pivot_root(2), NOTES).
void EnterRoot(const ChildContext& context) {
  At(Step::kPivotRoot);
  if (fchdir(context.root) < 0) FailErrno(Call::fchdir_);
  if (context.no_pivot || !context.plan->has_mountns) {
    if (chroot(".") < 0) FailErrno(Call::chroot_);
    if (chdir("/") < 0) FailErrno(Call::chdir_);
    return;
  }
  if (syscall(SYS_pivot_root, ".", ".") < 0) FailErrno(Call::pivot_root_);
  if (umount2(".", MNT_DETACH) < 0) FailErrno(Call::umount2_);
  if (chdir("/") < 0) FailErrno(Call::chdir_);
}

// runtime-spec config.md, "process": cwd is made where the image does not have it.
void MakeWorkingDirectory(const ChildContext& context) {
  At(Step::kCwd);
  Call call = Call::none_;
  const int fd = Resolve(context.root, context.plan->process.cwd, Make::kDirectory, &call);
  if (fd >= 0) {
    close(fd);
  } else if (errno != EROFS && errno != EACCES && errno != ENOTDIR) {
    FailErrno(call);
  }
}

void AttachRoot(const ChildContext& context) {
  HoldPropagatingBinds(context);
  At(Step::kPropagation);
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) FailErrno(Call::mount_);
  At(Step::kRootfs);
  if (syscall(SYS_move_mount, context.root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0) {
    FailErrno(Call::move_mount_);
  }
}

}  // namespace

int PrepareRootfs(const ChildContext& context) {
  const Plan& plan = *context.plan;
  // Without a mount namespace of its own nothing of the container may appear in the caller's: the
  // tree stays detached, and is gone with the last process whose root it is.
  if (plan.has_mountns) AttachRoot(context);
  for (size_t i = 0; i < plan.mounts.size(); i++) MountOne(context, static_cast<int32_t>(i));
  for (size_t i = 0; i < plan.devices.size(); i++) MakeDevice(context, static_cast<int32_t>(i));
  for (size_t i = 0; i < plan.symlinks.size(); i++) MakeSymlink(context, static_cast<int32_t>(i));
  MakeWorkingDirectory(context);
  int slave = -1;
  if (plan.process.terminal) {
    slave = OpenTerminal(context);
    MountConsole(context, slave);
  }
  if (context.create_container_count != 0) {
    RunChildHooks(context.create_container, context.create_container_count, context.hook_state, 0);
  }
  MakePathsReadonly(context);
  MaskPaths(context);
  At(Step::kReadonlyRoot);
  if (plan.root_readonly) SetMountAttributes(context.root, false, MOUNT_ATTR_RDONLY, 0, 0);
  EnterRoot(context);
  if (plan.root_propagation != 0 && (plan.root_propagation & MS_SLAVE) == 0) {
    At(Step::kPropagation);
    SetMountAttributes(context.root, (plan.root_propagation & MS_REC) != 0, 0, 0,
                       plan.root_propagation & ~uint64_t{MS_REC});
  }
  return slave;
}

int OpenExecTerminal(const ChildContext& context) {
  ChildContext inside = context;
  inside.root = static_cast<int>(syscall(SYS_openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (inside.root < 0) FailErrno(Call::openat_);
  const int slave = OpenTerminal(inside);
  close(inside.root);
  return slave;
}

}  // namespace runtime::child
