#include "layer/usage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>

#include <set>

#include "sys/files.h"

namespace layer {
namespace {

class Measure {
 public:
  explicit Measure(int root, dev_t device) : root_(root), device_(device) {}

  void Count(const struct stat& st, Usage* usage) {
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !shared_.insert(st.st_ino).second) return;
    usage->bytes += static_cast<uint64_t>(st.st_blocks) * 512;
    usage->inodes++;
  }

  // One directory at a time, by its path: a tree may be deeper than the limit of open files.
  void Below(const std::string& top, Usage* usage) {
    std::vector<std::string> pending{top};
    while (!pending.empty()) {
      const std::string path = std::move(pending.back());
      pending.pop_back();
      ForEach(path, [&](const std::string& name, const struct stat& st) {
        Count(st, usage);
        if (S_ISDIR(st.st_mode)) pending.push_back(path + "/" + name);
      });
    }
  }

  template <typename Visit>
  bool ForEach(const std::string& path, Visit visit) {
    auto fd = sys::openat2(root_, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                           RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (!fd) return false;
    DIR* dir = ::fdopendir(fd->get());
    if (dir == nullptr) return false;
    (void)fd->release();
    for (const dirent* at = ::readdir(dir); at != nullptr; at = ::readdir(dir)) {
      if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0) continue;
      struct stat st;
      if (::fstatat(::dirfd(dir), at->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0 || st.st_dev != device_) continue;
      visit(std::string(at->d_name), st);
    }
    ::closedir(dir);
    return true;
  }

 private:
  const int root_;
  const dev_t device_;
  std::set<ino_t> shared_;
};

sys::UniqueFd OpenTop(const std::string& path, struct stat* st, Problem* problem) {
  auto root = sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (root && ::fstat(root->get(), st) == 0) return std::move(*root);
  *problem = {kSystem, "open the directory", root ? "newfstatat" : root.failure().op, root ? errno : root.failure().error, path};
  return {};
}

}  // namespace

bool SumTree(const std::string& path, Usage* usage, Problem* problem) {
  struct stat st;
  const sys::UniqueFd root = OpenTop(path, &st, problem);
  if (!root.valid()) return false;
  Measure measure(root.get(), st.st_dev);
  measure.Count(st, usage);
  measure.Below(".", usage);
  return true;
}

bool MeasureTree(const std::string& path, TreeUsage* usage, Problem* problem) {
  struct stat st;
  const sys::UniqueFd root = OpenTop(path, &st, problem);
  if (!root.valid()) return false;
  Measure measure(root.get(), st.st_dev);
  measure.Count(st, &usage->own);
  const bool listed = measure.ForEach(".", [&](const std::string& name, const struct stat& child) {
    NamedUsage named{name, S_ISDIR(child.st_mode), {}};
    measure.Count(child, &named.usage);
    usage->children.push_back(std::move(named));
  });
  if (!listed) {
    *problem = {kSystem, "read the directory", "getdents64", errno, path};
    return false;
  }
  for (NamedUsage& child : usage->children) {
    if (child.is_directory) measure.Below(child.name, &child.usage);
  }
  return true;
}

}  // namespace layer
