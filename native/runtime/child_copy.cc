// tmpcopyup: the contents of a directory of the rootfs, copied into a new tmpfs, or into the empty
// directory of a bind mount, before it is put in its place. SIGNAL-SAFE; see child_calls.h.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/child_calls.h"
#include "runtime/child_rootfs.h"

namespace runtime::child {
namespace {

constexpr int kMaxDepth = 48;
constexpr size_t kEntriesBytes = 4096;

struct DirectoryEntry {  // struct linux_dirent64
  uint64_t inode;
  int64_t offset;
  uint16_t length;
  uint8_t type;
  char name[1];
};

void CopyDirectory(int from, int to, uint64_t device, int depth);

// Owner before mode: chown(2) takes set-id bits away.
void CopyOwnerAndMode(int fd, const struct stat& status) {
  if (fchown(fd, status.st_uid, status.st_gid) < 0) FailErrno(Call::fchown_);
  if (syscall(SYS_fchmod, fd, status.st_mode & 07777) < 0) FailErrno(Call::fchmod_);
}

void CopyFile(int from, int to, const char* name, const struct stat& status) {
  const long source = syscall(SYS_openat, from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (source < 0) FailErrno(Call::openat_);
  const long target = syscall(SYS_openat, to, name,
                              O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (target < 0) FailErrno(Call::openat_);
  for (;;) {
    const long sent = syscall(SYS_sendfile, target, source, nullptr, size_t{1} << 30);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) FailErrno(Call::sendfile_);
    if (sent == 0) break;
  }
  CopyOwnerAndMode(static_cast<int>(target), status);
  close(static_cast<int>(source));
  close(static_cast<int>(target));
}

void CopySymlink(int from, int to, const char* name, const struct stat& status) {
  static char target[PATH_MAX];
  const ssize_t length = syscall(SYS_readlinkat, from, name, target, sizeof target - 1);
  if (length < 0) FailErrno(Call::readlinkat_);
  target[length] = '\0';
  if (syscall(SYS_symlinkat, target, to, name) < 0) FailErrno(Call::symlinkat_);
  if (syscall(SYS_fchownat, to, name, status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW) < 0) {
    FailErrno(Call::fchownat_);
  }
}

void CopyNode(int from, int to, const char* name, const struct stat& status) {
  static_cast<void>(from);
  if (syscall(SYS_mknodat, to, name, status.st_mode, status.st_rdev) < 0) {
    FailErrno(Call::mknodat_);
  }
  if (syscall(SYS_fchownat, to, name, status.st_uid, status.st_gid, AT_SYMLINK_NOFOLLOW) < 0) {
    FailErrno(Call::fchownat_);
  }
}

void CopyEntry(int from, int to, const char* name, uint64_t device, int depth) {
  struct stat status;
  if (syscall(SYS_newfstatat, from, name, &status, AT_SYMLINK_NOFOLLOW) < 0) {
    FailErrno(Call::fstat_);
  }
  if (S_ISREG(status.st_mode)) return CopyFile(from, to, name, status);
  if (S_ISLNK(status.st_mode)) return CopySymlink(from, to, name, status);
  if (!S_ISDIR(status.st_mode)) return CopyNode(from, to, name, status);
  // Another file system that is mounted there stays where it is. Directories only: overlayfs gives
  // files the device numbers of their layers.
  if (status.st_dev != device) return;
  if (depth == kMaxDepth) Fail(Call::openat_, ELOOP);
  const long source =
      syscall(SYS_openat, from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (source < 0) FailErrno(Call::openat_);
  if (syscall(SYS_mkdirat, to, name, 0700) < 0) FailErrno(Call::mkdirat_);
  const long target =
      syscall(SYS_openat, to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (target < 0) FailErrno(Call::openat_);
  CopyDirectory(static_cast<int>(source), static_cast<int>(target), device, depth + 1);
  CopyOwnerAndMode(static_cast<int>(target), status);
  close(static_cast<int>(source));
  close(static_cast<int>(target));
}

void CopyDirectory(int from, int to, uint64_t device, int depth) {
  alignas(DirectoryEntry) char entries[kEntriesBytes];
  for (;;) {
    const long got = syscall(SYS_getdents64, from, entries, sizeof entries);
    if (got < 0) FailErrno(Call::getdents64_);
    if (got == 0) return;
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const DirectoryEntry*>(entries + at);
      const char* name = entries + at + offsetof(DirectoryEntry, name);
      at += entry->length;
      const bool is_self = name[0] == '.' && (name[1] == '\0' || (name[1] == '.' && name[2] == '\0'));
      if (!is_self) CopyEntry(from, to, name, device, depth);
    }
  }
}

}  // namespace

void CopyUp(int from, int to) {
  struct stat status;
  if (fstat(from, &status) < 0) FailErrno(Call::fstat_);
  const long source = syscall(SYS_openat, from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (source < 0) FailErrno(Call::openat_);
  const long target = syscall(SYS_openat, to, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (target < 0) FailErrno(Call::openat_);
  CopyDirectory(static_cast<int>(source), static_cast<int>(target), status.st_dev, 0);
  CopyOwnerAndMode(static_cast<int>(target), status);
  close(static_cast<int>(source));
  close(static_cast<int>(target));
}

}  // namespace runtime::child
