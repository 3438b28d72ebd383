#include "layer/remove_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "sys/files.h"

namespace layer {
namespace {

using sys::FailedWithErrno;
using sys::Result;
using sys::UniqueFd;

// Unlinks what is not a directory; names of directories are appended.
Result<void> EmptyOfFiles(UniqueFd fd, std::vector<std::string>* subdirs) {
  DIR* dir = ::fdopendir(fd.get());
  if (dir == nullptr) return FailedWithErrno("fdopendir");
  (void)fd.release();
  Result<void> result;
  for (;;) {
    errno = 0;
    const dirent* at = ::readdir(dir);
    if (at == nullptr) {
      if (errno != 0) result = FailedWithErrno("getdents64");
      break;
    }
    if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0) continue;
    if (::unlinkat(::dirfd(dir), at->d_name, 0) == 0 || errno == ENOENT) continue;
    if (errno != EISDIR) {
      result = FailedWithErrno("unlinkat");
      break;
    }
    subdirs->emplace_back(at->d_name);
  }
  ::closedir(dir);
  return result;
}

Result<UniqueFd> OpenBelow(int dirfd, const std::string& path) {
  return sys::openat2(dirfd, path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                      RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
}

}  // namespace

Result<void> RemoveTree(int dirfd, const char* name) {
  if (::unlinkat(dirfd, name, 0) == 0 || errno == ENOENT) return {};
  if (errno != EISDIR) return FailedWithErrno("unlinkat");

  // One descriptor at a time: a hostile tree may be deeper than the limit of open files. The
  // walk keeps the paths of directories that still hold something, deepest last.
  std::vector<std::string> pending{name};
  while (!pending.empty()) {
    const std::string path = pending.back();
    auto fd = OpenBelow(dirfd, path);
    if (!fd) return fd.failure();
    std::vector<std::string> subdirs;
    if (auto emptied = EmptyOfFiles(std::move(*fd), &subdirs); !emptied) return emptied;
    if (subdirs.empty()) {
      if (::unlinkat(dirfd, path.c_str(), AT_REMOVEDIR) < 0 && errno != ENOENT) return FailedWithErrno("unlinkat");
      pending.pop_back();
      continue;
    }
    for (const std::string& subdir : subdirs) pending.push_back(path + "/" + subdir);
  }
  return {};
}

}  // namespace layer
