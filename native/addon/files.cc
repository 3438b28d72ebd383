// Files that Node cannot open the way minke needs them: locked, sealed, or as a directory
// descriptor; and kernel features asked for by trying.
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/openat2.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "addon/async_op.h"
#include "addon/registration.h"
#include "sys/files.h"
#include "sys/memfd.h"
#include "sys/mount_api.h"
#include "sys/process.h"

namespace addon {
namespace {

// sealedExecutable(path, name) -> Promise<fd>
Napi::Value SealedExecutable(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  const std::string name = StringArgument(info, 1);
  return SettleOnPool<sys::UniqueFd>(
      info.Env(),
      [path, name]() -> sys::Result<sys::UniqueFd> {
        sys::Result<sys::UniqueFd> source = sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY);
        if (!source) return source;
        return sys::sealed_executable(source->get(), name.c_str());
      },
      FdToValue);
}

// writeAtomically(path, bytes, mode, durable) -> Promise: one trip to the pool for what would be
// four through libuv (open, write, close, rename), and more with fsync.
Napi::Value WriteAtomically(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  const Napi::Buffer<char> buffer = info[1].As<Napi::Buffer<char>>();
  // A copy: the caller may change or drop the buffer meanwhile. Records are small.
  const std::string bytes(buffer.Data(), buffer.Length());
  const mode_t mode = static_cast<mode_t>(IntArgument(info, 2));
  const bool durable = info[3].As<Napi::Boolean>().Value();
  return SettleOnPool<Nothing>(
      info.Env(),
      [path, bytes, mode, durable]() -> sys::Result<Nothing> {
        sys::Result<void> written = sys::WriteAtomically(AT_FDCWD, path.c_str(), bytes, mode, durable);
        if (!written) return written.failure();
        return Nothing{};
      },
      NothingToValue);
}

// spreadSubdirectories(path) -> undefined: see FS_TOPDIR_FL in chattr(1), "T". Other file systems than ext4 refuse it.
Napi::Value SpreadSubdirectories(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  sys::Result<sys::UniqueFd> directory =
      sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!directory) return Throw(info.Env(), directory.failure());
  int flags = 0;
  if (::ioctl(directory->get(), FS_IOC_GETFLAGS, &flags) < 0) return info.Env().Undefined();
  flags |= FS_TOPDIR_FL;
  (void)::ioctl(directory->get(), FS_IOC_SETFLAGS, &flags);
  return info.Env().Undefined();
}

// lockFile(path) -> Promise<fd>: exclusive flock(2), held until the descriptor is closed.
// Rejects with EWOULDBLOCK where another process holds it.
Napi::Value LockFile(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  return SettleOnPool<sys::UniqueFd>(
      info.Env(),
      [path]() -> sys::Result<sys::UniqueFd> {
        sys::Result<sys::UniqueFd> file =
            sys::open_at(AT_FDCWD, path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
        if (!file) return file;
        if (::flock(file->get(), LOCK_EX | LOCK_NB) < 0) return sys::FailedWithErrno("flock");
        return file;
      },
      FdToValue);
}

using Attribute = std::optional<std::string>;

Napi::Value AttributeToValue(Napi::Env env, Attribute& value) {
  if (!value) return env.Undefined();
  return Napi::Buffer<char>::Copy(env, value->data(), value->size());
}

// readXattr(path, name) -> Promise<Buffer | undefined>: undefined where the file has none of that
// name, or its file system none at all. Links are not followed. A value of more than 64 bytes is ERANGE.
Napi::Value ReadXattr(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  const std::string name = StringArgument(info, 1);
  return SettleOnPool<Attribute>(
      info.Env(),
      [path, name]() -> sys::Result<Attribute> {
        char value[64];
        const ssize_t size = ::lgetxattr(path.c_str(), name.c_str(), value, sizeof value);
        if (size >= 0) return Attribute(std::string(value, static_cast<size_t>(size)));
        if (errno == ENODATA || errno == ENOTSUP) return Attribute();
        return sys::FailedWithErrno("lgetxattr");
      },
      AttributeToValue);
}

// openDirectory(path) -> fd: for CLONE_INTO_CGROUP and for /proc/self/fd/N paths.
Napi::Value OpenDirectory(const Napi::CallbackInfo& info) {
  const std::string path = StringArgument(info, 0);
  sys::Result<sys::UniqueFd> directory =
      sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!directory) return Throw(info.Env(), directory.failure());
  return Napi::Number::New(info.Env(), directory->release());
}

// Each probe makes the smallest real use of a feature and undoes it: 0, or the errno.
int ProbeOpenat2() {
  sys::Result<sys::UniqueFd> fd =
      sys::openat2(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0, RESOLVE_NO_MAGICLINKS);
  return fd ? 0 : fd.failure().error;
}
int ProbePidfd() {
  sys::Result<sys::UniqueFd> fd = sys::pidfd_open(::getpid());
  return fd ? 0 : fd.failure().error;
}
int ProbeCloseRange() {
  // An empty range high above every descriptor in use.
  sys::Result<void> closed = sys::close_range(~0u - 1, ~0u - 1, 4 /* CLOSE_RANGE_CLOEXEC */);
  return closed ? 0 : closed.failure().error;
}
int ProbeFilesystem(const char* type) {
  sys::Result<sys::UniqueFd> fd = sys::fsopen(type, 0);
  return fd ? 0 : fd.failure().error;
}
int ProbeCloneDetached() {
  const char* options[] = {"size=4096", nullptr};
  sys::Result<sys::UniqueFd> tmpfs = sys::make_mount("tmpfs", options, MOUNT_ATTR_NODEV);
  if (!tmpfs) return tmpfs.failure().error;
  sys::Result<sys::UniqueFd> clone =
      sys::open_tree(tmpfs->get(), "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  return clone ? 0 : clone.failure().error;
}
int ProbeMountSetattr() {
  const char* options[] = {"size=4096", nullptr};
  sys::Result<sys::UniqueFd> tmpfs = sys::make_mount("tmpfs", options, MOUNT_ATTR_NODEV);
  if (!tmpfs) return tmpfs.failure().error;
  sys::Result<void> set =
      sys::mount_setattr(tmpfs->get(), "", AT_EMPTY_PATH, MOUNT_ATTR_RDONLY, 0, 0);
  return set ? 0 : set.failure().error;
}

// probeKernel() -> Promise<"name=errno\n…">, 0 = works
Napi::Value ProbeKernel(const Napi::CallbackInfo& info) {
  return SettleOnPool<std::string>(
      info.Env(),
      []() -> sys::Result<std::string> {
        std::string lines;
        const auto add = [&lines](const char* name, int error) {
          lines += std::string(name) + "=" + std::to_string(error) + "\n";
        };
        add("openat2", ProbeOpenat2());
        add("pidfd", ProbePidfd());
        add("closeRange", ProbeCloseRange());
        add("overlay", ProbeFilesystem("overlay"));
        add("tmpfs", ProbeFilesystem("tmpfs"));
        add("mqueue", ProbeFilesystem("mqueue"));
        add("cloneDetachedMount", ProbeCloneDetached());
        add("mountSetattr", ProbeMountSetattr());
        return lines;
      },
      [](Napi::Env env, std::string& lines) -> Napi::Value {
        return Napi::String::New(env, lines);
      });
}

}  // namespace

void RegisterFiles(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "sealedExecutable", SealedExecutable);
  Export(env, exports, "writeAtomically", WriteAtomically);
  Export(env, exports, "spreadSubdirectories", SpreadSubdirectories);
  Export(env, exports, "lockFile", LockFile);
  Export(env, exports, "readXattr", ReadXattr);
  Export(env, exports, "openDirectory", OpenDirectory);
  Export(env, exports, "probeKernel", ProbeKernel);
}

}  // namespace addon
