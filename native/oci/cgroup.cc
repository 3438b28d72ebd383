#include "oci/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include <set>
#include <string_view>

#include "runtime/describe_report.h"
#include "runtime/limits.h"
#include "sys/files.h"

namespace oci {
namespace {

constexpr long kCgroup2Magic = 0x63677270;  // CGROUP2_SUPER_MAGIC
constexpr const char* kDefaultParent = "minke-oci";

bool IsCgroup2(const char* path) {
  struct statfs filesystem;
  return ::statfs(path, &filesystem) == 0 && filesystem.f_type == kCgroup2Magic;
}

bool HasWord(std::string_view text, std::string_view word) {
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1)) {
    const bool starts = at == 0 || text[at - 1] == ' ';
    const size_t end = at + word.size();
    if (starts && (end == text.size() || text[end] == ' ' || text[end] == '\n')) return true;
  }
  return false;
}

// Asks the parent for the controllers that its children need.
bool EnableControllers(const std::string& parent, const std::set<std::string>& needed,
                       std::string* problem) {
  if (needed.empty()) return true;
  auto available = sys::ReadFileAt(AT_FDCWD, (parent + "/cgroup.controllers").c_str(), 4096);
  auto enabled = sys::ReadFileAt(AT_FDCWD, (parent + "/cgroup.subtree_control").c_str(), 4096);
  for (const std::string& controller : needed) {
    if (enabled && HasWord(*enabled, controller)) continue;
    if (!available || !HasWord(*available, controller)) {
      *problem = "cgroup controller \"" + controller + "\" is missing in \"" + parent + "\"";
      return false;
    }
    auto written = sys::WriteFileAt(AT_FDCWD, (parent + "/cgroup.subtree_control").c_str(),
                                    "+" + controller);
    if (!written) {
      *problem = "enable cgroup controller \"" + controller + "\" in \"" + parent +
                 "\": write: " + runtime::ErrnoName(written.failure().error);
      return false;
    }
  }
  return true;
}

void RemoveBelow(const std::string& path) {
  DIR* directory = ::opendir(path.c_str());
  if (directory == nullptr) return;
  while (const struct dirent* entry = ::readdir(directory)) {
    if (entry->d_type != DT_DIR || entry->d_name[0] == '.') continue;
    const std::string child = path + "/" + entry->d_name;
    RemoveBelow(child);
    ::rmdir(child.c_str());
  }
  ::closedir(directory);
}

// What MakeCgroup made on the way down to it, while it is empty: "minke-oci" and what is below.
// Directories of others stay.
void RemoveOwnParents(std::string path) {
  const std::string own = FindCgroupMount() + "/" + kDefaultParent;
  for (;;) {
    path.resize(path.rfind('/'));
    if (path.compare(0, own.size(), own) != 0) return;
    if (path.size() > own.size() && path[own.size()] != '/') return;
    if (::rmdir(path.c_str()) < 0) return;
  }
}

}  // namespace

std::string FindCgroupMount() {
  if (IsCgroup2("/sys/fs/cgroup")) return "/sys/fs/cgroup";
  if (IsCgroup2("/sys/fs/cgroup/unified")) return "/sys/fs/cgroup/unified";
  auto text = sys::ReadFileAt(AT_FDCWD, "/proc/self/mountinfo", 4 << 20);
  if (!text) return "";
  const size_t found = text->find(" - cgroup2 ");
  if (found == std::string::npos) return "";
  // proc_pid_mountinfo(5): id parent major:minor root mount-point ...
  size_t at = text->rfind('\n', found);
  at = at == std::string::npos ? 0 : at + 1;
  for (int field = 0; field < 4; field++) at = text->find(' ', at) + 1;
  return text->substr(at, text->find(' ', at) - at);
}

bool CgroupPathFor(const std::string& mount, const std::string& cgroups_path,
                   const std::string& id, std::string* path, std::string* problem) {
  if (mount.empty()) {
    *problem = "no cgroup2 file system is mounted";
    return false;
  }
  if (("/" + cgroups_path + "/").find("/../") != std::string::npos) {
    *problem = "linux.cgroupsPath has \"..\"";
    return false;
  }
  if (cgroups_path.empty()) {
    *path = mount + "/" + kDefaultParent + "/" + id;
  } else if (cgroups_path[0] == '/') {
    *path = mount + cgroups_path;
  } else {
    *path = mount + "/" + kDefaultParent + "/" + cgroups_path;
  }
  while (path->size() > 1 && path->back() == '/') path->pop_back();
  return true;
}

bool MakeCgroup(const std::string& mount, const std::string& path, const runtime::Spec& spec,
                bool* made, std::string* problem) {
  const std::set<std::string> needed = runtime::ControllersOf(spec.resources);
  *made = false;
  // The common case first: the parent exists and no controller is needed.
  if (needed.empty() && ::mkdir(path.c_str(), 0755) == 0) {
    *made = true;
    return true;
  }
  int tries = 20;
  for (size_t slash = mount.size(); slash != std::string::npos && slash < path.size();) {
    const std::string parent = path.substr(0, slash);
    const bool is_enabled = EnableControllers(parent, needed, problem);
    slash = path.find('/', slash + 1);
    const std::string child = path.substr(0, slash);
    *made = is_enabled && ::mkdir(child.c_str(), 0755) == 0;
    // The last container of the parent is being deleted, and the parent with it.
    if (!*made && ::access(parent.c_str(), F_OK) != 0 && errno == ENOENT && tries-- > 0) {
      slash = mount.size();
      continue;
    }
    if (!is_enabled) return false;
    if (!*made && errno != EEXIST) {
      *problem = "make cgroup \"" + child + "\": mkdir: " + runtime::ErrnoName(errno);
      return false;
    }
  }
  return true;
}

bool KillCgroup(const std::string& path) {
  return sys::WriteFileAt(AT_FDCWD, (path + "/cgroup.kill").c_str(), "1").ok();
}

bool RemoveCgroup(const std::string& path) {
  if (path.empty()) return true;
  for (int attempt = 0; attempt < 200; attempt++) {
    if (::rmdir(path.c_str()) == 0 || errno == ENOENT) {
      RemoveOwnParents(path);
      return true;
    }
    if (errno != EBUSY && errno != ENOTEMPTY) return false;
    RemoveBelow(path);
    const struct timespec pause = {0, 5'000'000};
    if (attempt > 0) ::nanosleep(&pause, nullptr);
  }
  return false;
}

}  // namespace oci
