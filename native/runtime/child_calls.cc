#include "runtime/child_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace runtime::child {

int report_fd = -1;
Position position;

namespace {

constexpr int kMaxLinks = 40;  // path_resolution(7)

void Send(const ChildReport& report, int fd) {
  struct iovec part = {const_cast<ChildReport*>(&report), sizeof report};
  alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  struct msghdr message;
  memset(&message, 0, sizeof message);
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  if (fd >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    struct cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  if (syscall(SYS_sendmsg, report_fd, &message, MSG_NOSIGNAL) < 0) _exit(125);
}

ChildReport MakeReport(ReportKind kind, Call call, int error) {
  ChildReport report;
  memset(&report, 0, sizeof report);
  report.version = kChildReportVersion;
  report.kind = kind;
  report.step = position.step;
  report.call = call;
  report.error = error;
  report.index = position.index;
  report.detail = position.detail;
  return report;
}

// Fsconfig of one "key" or "key=value".
void SetOption(int fs, const char* option) {
  const char* equals = strchr(option, '=');
  if (equals == nullptr) {
    if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_FLAG, option, nullptr, 0) < 0) {
      FailErrno(Call::fsconfig_);
    }
    return;
  }
  char key[64];
  const size_t length = static_cast<size_t>(equals - option);
  if (length >= sizeof key) Fail(Call::fsconfig_, EINVAL);
  memcpy(key, option, length);
  key[length] = '\0';
  if (syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, key, equals + 1, 0) < 0) {
    FailErrno(Call::fsconfig_);
  }
}

// Replaces the link at the end of the first `end` bytes of `path` by what it points to, keeping
// what follows. False with errno where it is no link or the result is too long.
bool ExpandLink(int parent, const char* name, char* path, size_t start, size_t end) {
  static char target[PATH_MAX];
  static char rest[PATH_MAX];
  const ssize_t length = syscall(SYS_readlinkat, parent, name, target, sizeof target - 1);
  if (length < 0) return false;
  target[length] = '\0';
  const size_t rest_length = strlen(path + end);
  memcpy(rest, path + end, rest_length + 1);
  const size_t keep = target[0] == '/' ? 0 : start;
  if (keep + static_cast<size_t>(length) + rest_length + 1 >= PATH_MAX) {
    errno = ENAMETOOLONG;
    return false;
  }
  memcpy(path + keep, target, static_cast<size_t>(length));
  memcpy(path + keep + length, rest, rest_length + 1);
  return true;
}

// Makes one missing object, or says by *is_link that a dangling link stands in its place.
bool MakeOne(int parent, const char* name, bool is_file, bool* is_link, Call* call) {
  struct stat status;
  *is_link = false;
  if (syscall(SYS_newfstatat, parent, name, &status, AT_SYMLINK_NOFOLLOW) == 0) {
    *is_link = S_ISLNK(status.st_mode);
    return true;
  }
  if (!is_file) {
    *call = Call::mkdirat_;
    return syscall(SYS_mkdirat, parent, name, 0755) == 0 || errno == EEXIST;
  }
  *call = Call::openat_;
  const long fd = syscall(SYS_openat, parent, name,
                          O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
  if (fd < 0) return errno == EEXIST;
  close(static_cast<int>(fd));
  return true;
}

// Walks the working copy in `path` from the left and makes what is missing. Ends with an O_PATH
// descriptor of the whole.
int MakeWalk(int root, char* path, bool last_is_file, int links, Call* call) {
  size_t start = 0;  // of the current component
  int parent = OpenInRoot(root, "/", O_PATH | O_DIRECTORY, 0);
  if (parent < 0) return -1;
  for (;;) {
    while (path[start] == '/') start++;
    if (path[start] == '\0') return parent;
    size_t end = start;
    while (path[end] != '\0' && path[end] != '/') end++;
    size_t after = end;
    while (path[after] == '/') after++;
    const bool is_last = path[after] == '\0';
    const bool is_file = is_last && last_is_file;
    const char saved = path[end];
    path[end] = '\0';
    *call = Call::openat2_;
    int next = OpenInRoot(root, path, O_PATH | (is_file ? 0u : unsigned{O_DIRECTORY}), 0);
    if (next < 0 && errno == ENOENT) {
      bool is_link;
      const bool made = MakeOne(parent, path + start, is_file, &is_link, call);
      if (!made) return -1;
      if (is_link) {
        char name[NAME_MAX + 1];
        if (end - start > NAME_MAX || ++links > kMaxLinks) {
          errno = ELOOP;
          return -1;
        }
        memcpy(name, path + start, end - start + 1);
        path[end] = saved;
        *call = Call::readlinkat_;
        if (!ExpandLink(parent, name, path, start, end)) return -1;
        close(parent);
        return MakeWalk(root, path, last_is_file, links, call);
      }
      *call = Call::openat2_;
      next = OpenInRoot(root, path, O_PATH | (is_file ? 0u : unsigned{O_DIRECTORY}), 0);
    }
    path[end] = saved;
    if (next < 0) return -1;
    close(parent);
    parent = next;
    start = end;
  }
}

}  // namespace

void Fail(Call call, int error) {
  Send(MakeReport(ReportKind::kFailed, call, error), -1);
  _exit(127);
}

void FailErrno(Call call) { Fail(call, errno); }

void Tell(ReportKind kind, int fd) { Send(MakeReport(kind, Call::none_, 0), fd); }

void AwaitParent() {
  char byte;
  long got;
  do {
    got = syscall(SYS_read, report_fd, &byte, 1);
  } while (got < 0 && errno == EINTR);
  if (got != 1) _exit(125);
}

int OpenTree(int dirfd, const char* path, unsigned flags) {
  const long fd = syscall(SYS_open_tree, dirfd, path, flags | OPEN_TREE_CLOEXEC);
  if (fd < 0) FailErrno(Call::open_tree_);
  return static_cast<int>(fd);
}

void MoveOnto(int mount, int target) {
  if (syscall(SYS_move_mount, mount, "", target, "",
              MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0) {
    FailErrno(Call::move_mount_);
  }
}

void SetMountAttributes(int mount, bool recursive, uint64_t set, uint64_t clear,
                        uint64_t propagation) {
  const uint64_t attributes[4] = {set, clear, propagation, 0};  // struct mount_attr
  if (syscall(SYS_mount_setattr, mount, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0),
              attributes, sizeof attributes) < 0) {
    FailErrno(Call::mount_setattr_);
  }
}

int MakeMount(const char* type, const char* source, const char* const* options,
              uint64_t attributes) {
  const long fs = syscall(SYS_fsopen, type, FSOPEN_CLOEXEC);
  if (fs < 0) FailErrno(Call::fsopen_);
  if (source[0] != '\0' &&
      syscall(SYS_fsconfig, fs, FSCONFIG_SET_STRING, "source", source, 0) < 0) {
    FailErrno(Call::fsconfig_);
  }
  for (; options != nullptr && *options != nullptr; options++) {
    SetOption(static_cast<int>(fs), *options);
  }
  if (syscall(SYS_fsconfig, fs, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) < 0) {
    FailErrno(Call::fsconfig_);
  }
  const long mount = syscall(SYS_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
  if (mount < 0) FailErrno(Call::fsmount_);
  close(static_cast<int>(fs));
  return static_cast<int>(mount);
}

int OpenInRoot(int root, const char* path, uint64_t flags, uint64_t resolve) {
  struct open_how how;
  memset(&how, 0, sizeof how);
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve;
  for (int attempt = 0;; attempt++) {
    const long fd = syscall(SYS_openat2, root, path, &how, sizeof how);
    // EAGAIN: a rename somewhere raced with "..", openat2(2).
    if (fd >= 0 || errno != EAGAIN || attempt == 128) return static_cast<int>(fd);
  }
}

int Resolve(int root, const char* path, Make make, Call* call) {
  *call = Call::openat2_;
  const uint64_t kind = make == Make::kDirectory ? uint64_t{O_DIRECTORY} : 0;
  const int fd = OpenInRoot(root, path, O_PATH | kind, 0);
  if (fd >= 0 || errno != ENOENT || make == Make::kNothing) return fd;
  static char copy[PATH_MAX];
  const size_t length = strlen(path);
  if (length >= sizeof copy) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(copy, path, length + 1);
  return MakeWalk(root, copy, make == Make::kFile, 0, call);
}

int ResolveParent(int root, const char* path, const char** name, Call* call) {
  static char copy[PATH_MAX];
  const char* slash = strrchr(path, '/');
  *name = slash == nullptr ? path : slash + 1;
  const size_t length = slash == nullptr ? 0 : static_cast<size_t>(slash - path);
  if (length >= sizeof copy - 1) {
    errno = ENAMETOOLONG;
    return -1;
  }
  memcpy(copy, path, length);
  copy[length] = '\0';
  if (length == 0) memcpy(copy, "/", 2);
  return Resolve(root, copy, Make::kDirectory, call);
}

}  // namespace runtime::child
