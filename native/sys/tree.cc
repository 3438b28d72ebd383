#include "sys/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <string>

#include "sys/files.h"

namespace sys {
namespace {

// A container may nest directories as deep as it likes, and each level costs a descriptor and a
// frame: what lies deeper is moved up to the root of the tree, and removed from there.
constexpr int kMaxDepth = 128;

struct Removal {
  int root;
  dev_t device;
  unsigned moved = 0;
};

using Directory = std::unique_ptr<DIR, int (*)(DIR*)>;

bool IsDots(const char* name) { return strcmp(name, ".") == 0 || strcmp(name, "..") == 0; }

Result<Directory> OpenDirectory(int parent, const char* name) {
  Result<UniqueFd> fd = open_at(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!fd) return fd.failure();
  DIR* stream = ::fdopendir(fd->get());
  if (stream == nullptr) return FailedWithErrno("fdopendir");
  (void)fd->release();
  return Directory(stream, ::closedir);
}

// True where an entry is a directory of `device`; a link is none.
Result<bool> IsDirectory(int parent, const struct dirent* entry, dev_t* device) {
  struct stat status;
  if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN) return false;
  if (::fstatat(parent, entry->d_name, &status, AT_SYMLINK_NOFOLLOW) < 0) return FailedWithErrno("fstatat");
  *device = status.st_dev;
  return S_ISDIR(status.st_mode);
}

Result<void> MoveUp(int parent, const char* name, Removal* removal) {
  for (;;) {
    const std::string top = ".minke-removed-" + std::to_string(removal->moved++);
    if (::renameat2(parent, name, removal->root, top.c_str(), RENAME_NOREPLACE) == 0) return {};
    if (errno != EEXIST) return FailedWithErrno("renameat2");
  }
}

Result<void> RemoveContent(DIR* directory, int depth, Removal* removal);

Result<void> RemoveEntry(int parent, const struct dirent* entry, int depth, Removal* removal) {
  dev_t own = 0;
  Result<bool> is_directory = IsDirectory(parent, entry, &own);
  if (!is_directory) return is_directory.failure();
  if (*is_directory && own == removal->device) {
    if (depth == kMaxDepth) return MoveUp(parent, entry->d_name, removal);
    Result<Directory> child = OpenDirectory(parent, entry->d_name);
    if (!child) return child.failure();
    Result<void> emptied = RemoveContent(child->get(), depth + 1, removal);
    if (!emptied) return emptied;
  }
  if (::unlinkat(parent, entry->d_name, *is_directory ? AT_REMOVEDIR : 0) < 0) {
    return FailedWithErrno("unlinkat");
  }
  return {};
}

Result<void> RemoveContent(DIR* directory, int depth, Removal* removal) {
  for (;;) {
    errno = 0;
    const struct dirent* entry = ::readdir(directory);
    if (entry == nullptr) break;
    if (IsDots(entry->d_name)) continue;
    Result<void> removed = RemoveEntry(::dirfd(directory), entry, depth, removal);
    if (!removed && removed.failure().error != ENOENT) return removed;
  }
  if (errno != 0) return FailedWithErrno("readdir");
  return {};
}

}  // namespace

Result<void> RemoveTree(const char* path) {
  Result<Directory> root = OpenDirectory(AT_FDCWD, path);
  if (!root) {
    if (root.failure().error == ENOENT) return {};
    return root.failure();
  }
  struct stat status;
  if (::fstat(::dirfd(root->get()), &status) < 0) return FailedWithErrno("fstat");
  Removal removal{::dirfd(root->get()), status.st_dev};
  for (unsigned before = 0;; before = removal.moved) {
    Result<void> emptied = RemoveContent(root->get(), 0, &removal);
    if (!emptied) return emptied;
    if (removal.moved == before) break;
    ::rewinddir(root->get());
  }
  if (::rmdir(path) < 0 && errno != ENOENT) return FailedWithErrno("rmdir");
  return {};
}

Result<bool> RemoveCgroups(const char* path) {
  if (::rmdir(path) == 0 || errno == ENOENT) return true;
  if (errno != EBUSY) return FailedWithErrno("rmdir");
  // EBUSY: processes, or cgroups below.
  {
    Result<Directory> directory = OpenDirectory(AT_FDCWD, path);
    if (!directory) {
      if (directory.failure().error == ENOENT) return true;
      return directory.failure();
    }
    // ENODEV: it was removed while it was open.
    while (const struct dirent* entry = ::readdir(directory->get())) {
      if (entry->d_type != DT_DIR || IsDots(entry->d_name)) continue;
      Result<bool> removed = RemoveCgroups((std::string(path) + "/" + entry->d_name).c_str());
      if (!removed || !*removed) return removed;
    }
  }
  if (::rmdir(path) == 0 || errno == ENOENT) return true;
  if (errno == EBUSY) return false;
  return FailedWithErrno("rmdir");
}

}  // namespace sys
