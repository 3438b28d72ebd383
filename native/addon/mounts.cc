// Mounts of the daemon itself: its tmpfs for secrets and memory-backed volumes, the /dev/shm of
// a sandbox, and network namespaces bound to paths for CNI plugins. A container's mounts are made by native/runtime.
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>

#include <string>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "addon/shm.h"
#include "addon/user_namespace.h"
#include "sys/attached_overlay.h"
#include "sys/files.h"
#include "sys/mount_api.h"

namespace addon {
namespace {

// size_bytes 0: the kernel's default, half of the memory.
sys::Result<sys::UniqueFd> MakeTmpfs(uint64_t size_bytes, unsigned mode, unsigned attributes) {
  char size_option[40], mode_option[24];
  snprintf(size_option, sizeof size_option, "size=%llu",
           static_cast<unsigned long long>(size_bytes));
  snprintf(mode_option, sizeof mode_option, "mode=%o", mode);
  const char* options[] = {mode_option, size_bytes > 0 ? size_option : nullptr, nullptr};
  return sys::make_mount("tmpfs", options, attributes);
}

// mountTmpfs(path, sizeBytes, mode) -> Promise<void>
Napi::Value MountTmpfs(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  const auto size_bytes = static_cast<uint64_t>(info[1].As<Napi::Number>().Int64Value());
  const auto mode = static_cast<unsigned>(IntArgument(info, 2));
  return SettleOnPool<Nothing>(
      info.Env(),
      [path, size_bytes, mode]() -> sys::Result<Nothing> {
        sys::Result<sys::UniqueFd> target =
            sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW);
        if (!target) return target.failure();
        sys::Result<sys::UniqueFd> tmpfs =
            MakeTmpfs(size_bytes, mode, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
        if (!tmpfs) return tmpfs.failure();
        sys::Result<void> moved = sys::move_mount_onto(tmpfs->get(), target->get());
        if (!moved) return moved.failure();
        return Nothing{};
      },
      NothingToValue);
}

// unmount(path, detach) -> Promise<void>. A symbolic link is not followed.
Napi::Value Unmount(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  const int flags = UMOUNT_NOFOLLOW | (info[1].ToBoolean().Value() ? MNT_DETACH : 0);
  return SettleOnPool<Nothing>(
      info.Env(),
      [path, flags]() -> sys::Result<Nothing> {
        sys::Result<void> unmounted = sys::umount2(path.c_str(), flags);
        if (!unmounted) return unmounted.failure();
        return Nothing{};
      },
      NothingToValue);
}

// bindMount(source, target) -> Promise<void>
Napi::Value BindMount(const Napi::CallbackInfo& info) {
  const std::string source = StringArgument(info, 0);
  const std::string target = StringArgument(info, 1);
  return SettleOnPool<Nothing>(
      info.Env(),
      [source, target]() -> sys::Result<Nothing> {
        sys::Result<void> bound = sys::bind_mount(source.c_str(), target.c_str());
        if (!bound) return bound.failure();
        return Nothing{};
      },
      NothingToValue);
}

// makeShared(path) -> Promise<void>. Of the mount at `path`: what is mounted below it later
// reaches every mount namespace that has a copy, and so does its going.
Napi::Value MakeShared(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  return SettleOnPool<Nothing>(
      info.Env(),
      [path]() -> sys::Result<Nothing> {
        sys::Result<void> shared =
            sys::mount_setattr(AT_FDCWD, path.c_str(), AT_SYMLINK_NOFOLLOW, 0, 0, MS_SHARED);
        if (!shared) return shared.failure();
        return Nothing{};
      },
      NothingToValue);
}

// probeIdmappedLayers(above, below) -> Promise<void>. Two directories beside one another, as the
// layers of a container in a user namespace; on newer kernels too in the way of the older ones.
Napi::Value ProbeIdmappedLayers(const Napi::CallbackInfo& info) {
  sys::OverlayDirs overlay;
  overlay.lower = {StringArgument(info, 0), StringArgument(info, 1)};
  overlay.is_volatile = false;
  return SettleOnPool<Nothing>(
      info.Env(),
      [overlay]() -> sys::Result<Nothing> {
        sys::Result<UserNamespaces> made = MakeUserNamespaces({"0 65536 1\n", "0 65536 1\n"}, 0);
        if (!made) return made.failure();
        sys::Result<sys::UniqueFd> root = sys::MakeAttachedOverlay(overlay, made->user.get());
        if (!root) return root.failure();
        return Nothing{};
      },
      NothingToValue);
}

}  // namespace

sys::Result<sys::UniqueFd> MakeShm(uint64_t size_bytes) {
  sys::Result<sys::UniqueFd> shm =
      MakeTmpfs(size_bytes, 01777, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
  if (!shm) return shm;
  sys::Result<sys::UniqueFd> clone =
      sys::open_tree(shm->get(), "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  if (!clone) return clone.failure();
  return shm;
}

void RegisterMounts(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "mountTmpfs", MountTmpfs);
  Export(env, exports, "unmount", Unmount);
  Export(env, exports, "bindMount", BindMount);
  Export(env, exports, "makeShared", MakeShared);
  Export(env, exports, "probeIdmappedLayers", ProbeIdmappedLayers);
}

}  // namespace addon
