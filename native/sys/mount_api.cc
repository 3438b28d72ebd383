#include "sys/mount_api.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace sys {
namespace {

struct MountAttributes {  // struct mount_attr, MOUNT_ATTR_SIZE_VER0
  uint64_t set, clear, propagation, userns;
};
constexpr uint64_t kIdmap = 0x00100000;  // MOUNT_ATTR_IDMAP

Result<void> Fsconfig(int fs, unsigned command, const char* key, const void* value, int aux) {
  if (::syscall(SYS_fsconfig, fs, command, key, value, aux) < 0) return FailedWithErrno("fsconfig");
  return {};
}

Result<void> SetAttributes(int dirfd, const char* path, unsigned flags,
                           const MountAttributes& attributes) {
  if (::syscall(SYS_mount_setattr, dirfd, path, flags, &attributes, sizeof attributes) < 0) {
    return FailedWithErrno("mount_setattr");
  }
  return {};
}

}  // namespace

Result<UniqueFd> open_tree(int dirfd, const char* path, unsigned flags) {
  const long fd = ::syscall(SYS_open_tree, dirfd, path, flags | OPEN_TREE_CLOEXEC);
  if (fd < 0) return FailedWithErrno("open_tree");
  return UniqueFd(static_cast<int>(fd));
}

Result<void> move_mount(int from_dirfd, const char* from, int to_dirfd, const char* to,
                        unsigned flags) {
  if (::syscall(SYS_move_mount, from_dirfd, from, to_dirfd, to, flags) < 0) {
    return FailedWithErrno("move_mount");
  }
  return {};
}

Result<void> move_mount_onto(int from, int to) {
  return move_mount(from, "", to, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

Result<UniqueFd> fsopen(const char* type, unsigned flags) {
  const long fd = ::syscall(SYS_fsopen, type, flags | FSOPEN_CLOEXEC);
  if (fd < 0) return FailedWithErrno("fsopen");
  return UniqueFd(static_cast<int>(fd));
}

Result<void> fsconfig_set_flag(int fs, const char* key) {
  return Fsconfig(fs, FSCONFIG_SET_FLAG, key, nullptr, 0);
}
Result<void> fsconfig_set_string(int fs, const char* key, const char* value) {
  return Fsconfig(fs, FSCONFIG_SET_STRING, key, value, 0);
}
Result<void> fsconfig_set_fd(int fs, const char* key, int fd) {
  return Fsconfig(fs, FSCONFIG_SET_FD, key, nullptr, fd);
}
Result<void> fsconfig_create(int fs) {
  return Fsconfig(fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0);
}

void fs_message(int fs, char* buffer, unsigned long buffer_bytes) {
  const ssize_t got = ::read(fs, buffer, buffer_bytes - 1);
  buffer[got > 0 ? got : 0] = '\0';
  if (char* end = strchr(buffer, '\n')) *end = '\0';
  if (buffer[0] != '\0' && buffer[1] == ' ') memmove(buffer, buffer + 2, strlen(buffer + 2) + 1);
}

Result<UniqueFd> fsmount(int fs, unsigned attributes) {
  const long fd = ::syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
  if (fd < 0) return FailedWithErrno("fsmount");
  return UniqueFd(static_cast<int>(fd));
}

Result<UniqueFd> make_mount(const char* type, const char* const* options, unsigned attributes) {
  Result<UniqueFd> fs = fsopen(type, 0);
  if (!fs) return fs.failure();
  for (const char* const* option = options; option != nullptr && *option != nullptr; option++) {
    const char* equals = strchr(*option, '=');
    char key[64];
    Result<void> set;
    if (equals == nullptr) {
      set = fsconfig_set_flag(fs->get(), *option);
    } else if (static_cast<size_t>(equals - *option) >= sizeof key) {
      return Failure{"fsconfig", EINVAL};
    } else {
      memcpy(key, *option, static_cast<size_t>(equals - *option));
      key[equals - *option] = '\0';
      set = fsconfig_set_string(fs->get(), key, equals + 1);
    }
    if (!set) return set.failure();
  }
  if (Result<void> created = fsconfig_create(fs->get()); !created) return created.failure();
  return fsmount(fs->get(), attributes);
}

Result<void> mount_setattr(int dirfd, const char* path, unsigned flags, uint64_t set,
                           uint64_t clear, uint64_t propagation) {
  return SetAttributes(dirfd, path, flags, MountAttributes{set, clear, propagation, 0});
}

Result<void> mount_setattr_idmap(int mount, bool recursive, int userns) {
  return SetAttributes(mount, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0u),
                       MountAttributes{kIdmap, 0, 0, static_cast<uint64_t>(userns)});
}

Result<void> bind_mount(const char* source, const char* target) {
  if (::mount(source, target, nullptr, MS_BIND, nullptr) < 0) return FailedWithErrno("mount");
  return {};
}

Result<void> umount2(const char* path, int flags) {
  if (::umount2(path, flags) < 0) return FailedWithErrno("umount2");
  return {};
}

Result<void> pivot_root(const char* new_root, const char* put_old) {
  if (::syscall(SYS_pivot_root, new_root, put_old) < 0) return FailedWithErrno("pivot_root");
  return {};
}

}  // namespace sys
