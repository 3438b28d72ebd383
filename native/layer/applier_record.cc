// What the applier tells the record of the archive (tar_record.h): where an entry really is, and
// what the kernel says of it once all is set. Nothing here changes the tree but MoveAside().
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "layer/applier.h"

namespace layer {
namespace {

// As the kernel gives them back, which may not be as they were set: an access ACL that says
// what the mode says is stored as the mode alone.
std::vector<Xattr> StoredXattrs(const std::string& path, const std::vector<Xattr>& set) {
  std::vector<Xattr> stored;
  std::string value(XATTR_SIZE_MAX, '\0');
  for (const Xattr& xattr : set) {
    const ssize_t size = ::lgetxattr(path.c_str(), xattr.name.c_str(), value.data(), value.size());
    if (size >= 0) stored.push_back({xattr.name, value.substr(0, static_cast<size_t>(size))});
  }
  return stored;
}

}  // namespace

std::string Applier::KernelPath(int directory) {
  char text[PATH_MAX];
  const std::string link = "/proc/self/fd/" + std::to_string(directory);
  const ssize_t size = ::readlink(link.c_str(), text, sizeof text);
  return size < 0 || static_cast<size_t>(size) == sizeof text ? "" : std::string(text, static_cast<size_t>(size));
}

// Path of a directory below the root, without links and with a slash at its end; "" is the root.
// A path that is too long for the kernel to say is the one that was written, without its "." parts.
std::string Applier::PathOf(int directory, const std::string& written) const {
  const std::string path = KernelPath(directory);
  if (path.empty() || root_path_.empty()) return written;
  return path.size() < root_path_.size() ? "" : path.substr(root_path_.size()) + "/";
}

std::string Applier::StoredPath() const { return parent_stored_ + name_; }

void Applier::RecordOnly(char kind, std::string path) {
  if (record_ == nullptr) return;
  RecordOp op;
  op.kind = kind;
  op.path = std::move(path);
  record_->Add(op);
}

bool Applier::RecordEntry(const Entry& entry, uint64_t hash, Problem* problem, bool is_root) {
  if (record_ == nullptr) return true;
  const std::string path = is_root ? "/proc/self/fd/" + std::to_string(root_) + "/."
                                   : "/proc/self/fd/" + std::to_string(parent_.get()) + "/" + name_;
  struct stat st;
  if (::lstat(path.c_str(), &st) < 0) return FailedCall(problem, "newfstatat", errno);
  RecordOp op;
  op.kind = 'F';
  op.path = is_root ? "" : StoredPath();
  op.facts.mode = st.st_mode;
  op.facts.uid = st.st_uid;
  op.facts.gid = st.st_gid;
  op.facts.mtime_s = st.st_mtim.tv_sec;
  op.facts.mtime_ns = static_cast<uint32_t>(st.st_mtim.tv_nsec);
  op.facts.size = S_ISREG(st.st_mode) ? static_cast<uint64_t>(st.st_size) : 0;
  op.facts.device = S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode) ? st.st_rdev : 0;
  op.facts.hash = hash;
  if (S_ISLNK(st.st_mode)) op.facts.link = entry.link;
  op.facts.xattrs = StoredXattrs(path, entry.xattrs);
  record_->Add(op);
  return true;
}

bool Applier::RecordTimes(int fd, const Directory& directory, Problem* problem) {
  if (record_ == nullptr) return true;
  struct stat st;
  if (::fstat(fd, &st) < 0) return FailedCall(problem, "newfstatat", errno);
  RecordOp op;
  op.kind = 'T';
  op.path = directory.path;
  op.facts.mtime_s = st.st_mtim.tv_sec;
  op.facts.mtime_ns = static_cast<uint32_t>(st.st_mtim.tv_nsec);
  if (!directory.default_acl.empty()) {
    const std::string path = "/proc/self/fd/" + std::to_string(fd) + "/.";
    op.facts.xattrs = StoredXattrs(path, {{"system.posix_acl_default", ""}});
  }
  record_->Add(op);
  return true;
}

bool Applier::MoveAside(Problem* problem) {
  std::string name;
  const int to = record_->ReplacedDirectory(&name, problem);
  if (to < 0) return false;
  RecordOp op;
  op.kind = 'M';
  op.path = StoredPath();
  op.number = record_->replaced() - 1;
  if (::renameat(parent_.get(), name_.c_str(), to, name.c_str()) < 0) return FailedCall(problem, "renameat", errno);
  record_->Add(op);
  return true;
}

}  // namespace layer
