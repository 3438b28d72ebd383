// Owners, modes, attributes and times of what the applier has made. The order is the
// kernel's: chown(2) drops setuid bits and security.capability, so both come after it, and
// every later write would change mtime, so times come last.
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "layer/applier.h"
#include "sys/files.h"

namespace layer {
namespace {

constexpr char kDefaultAcl[] = "system.posix_acl_default";

timespec MtimeOf(const Entry& entry) {
  return {static_cast<time_t>(entry.mtime_s), static_cast<long>(entry.mtime_ns)};
}

}  // namespace

bool Applier::SetMetadataOf(int fd, const Entry& entry, Problem* problem) {
  if (::fchown(fd, entry.uid, entry.gid) < 0) return FailedCall(problem, "fchown", errno);
  if (::fchmod(fd, entry.mode) < 0) return FailedCall(problem, "fchmod", errno);
  for (const Xattr& xattr : entry.xattrs) {
    if (xattr.name != kDefaultAcl && !SetXattr(fd, xattr, problem)) return false;
  }
  if (entry.type == EntryType::kDirectory) return true;
  const timespec times[2] = {{0, UTIME_NOW}, MtimeOf(entry)};
  if (::futimens(fd, times) < 0) return FailedCall(problem, "utimensat", errno);
  return true;
}

bool Applier::SetXattr(int fd, const Xattr& xattr, Problem* problem) {
  if (::fsetxattr(fd, xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) == 0) return true;
  if (errno != ENOTSUP) return FailedCall(problem, "fsetxattr", errno);
  facts_->unsupported_xattrs++;
  return true;
}

// Links, devices and FIFOs, which must not be opened: by name in the parent, which this
// process alone writes to.
bool Applier::SetMetadataAt(const Entry& entry, Problem* problem) {
  if (::fchownat(parent_.get(), name_.c_str(), entry.uid, entry.gid, AT_SYMLINK_NOFOLLOW) < 0) {
    return FailedCall(problem, "fchownat", errno);
  }
  if (entry.type != EntryType::kSymlink && ::fchmodat(parent_.get(), name_.c_str(), entry.mode, 0) < 0) {
    return FailedCall(problem, "fchmodat", errno);
  }
  const std::string path = "/proc/self/fd/" + std::to_string(parent_.get()) + "/" + name_;
  for (const Xattr& xattr : entry.xattrs) {
    if (::lsetxattr(path.c_str(), xattr.name.c_str(), xattr.value.data(), xattr.value.size(), 0) == 0) continue;
    // EPERM: user.* is for files and directories only (xattr(7)).
    if (errno != ENOTSUP && !(errno == EPERM && xattr.name.starts_with("user."))) {
      return FailedCall(problem, "lsetxattr", errno);
    }
    facts_->unsupported_xattrs++;
  }
  const timespec times[2] = {{0, UTIME_NOW}, MtimeOf(entry)};
  if (::utimensat(parent_.get(), name_.c_str(), times, AT_SYMLINK_NOFOLLOW) < 0) {
    return FailedCall(problem, "utimensat", errno);
  }
  return true;
}

bool Applier::RememberDirectory(int fd, const Entry& entry, Problem* problem) {
  struct stat st;
  if (::fstat(fd, &st) < 0) return FailedCall(problem, "newfstatat", errno);
  Directory directory{fd == root_ ? "" : StoredPath(), st.st_dev, st.st_ino, MtimeOf(entry), ""};
  for (const Xattr& xattr : entry.xattrs) {
    if (xattr.name == kDefaultAcl) directory.default_acl = xattr.value;
  }
  directories_.push_back(std::move(directory));
  return true;
}

// Later entries change the times of directories, so theirs are set when all is written. A
// directory that something has replaced since is not found by its inode, and left.
bool Applier::FinishDirectories(Problem* problem) {
  for (const Directory& directory : directories_) {
    const std::string path = "/" + directory.path;
    auto fd = sys::openat2_in_root(root_, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0);
    if (!fd) {
      const int error = fd.failure().error;
      if (error == ENOENT || error == ENOTDIR || error == ELOOP) continue;
      return FailedCall(problem, fd.failure().op, error);
    }
    struct stat st;
    if (::fstat(fd->get(), &st) < 0) return FailedCall(problem, "newfstatat", errno);
    if (st.st_ino != directory.inode || st.st_dev != directory.device) continue;
    entry_path_ = directory.path;
    if (!directory.default_acl.empty() && !SetXattr(fd->get(), {kDefaultAcl, directory.default_acl}, problem)) {
      return false;
    }
    const timespec times[2] = {{0, UTIME_NOW}, directory.mtime};
    if (::futimens(fd->get(), times) < 0) return FailedCall(problem, "utimensat", errno);
    if (!RecordTimes(fd->get(), directory, problem)) return false;
  }
  return true;
}

}  // namespace layer
