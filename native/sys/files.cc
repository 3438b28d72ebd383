#include "sys/files.h"

#include <errno.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

namespace sys {

Result<UniqueFd> openat2(int dirfd, const char* path, uint64_t flags, mode_t mode,
                         uint64_t resolve) {
  struct open_how how;
  memset(&how, 0, sizeof how);
  how.flags = flags | O_CLOEXEC;
  how.mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? mode : 0;
  how.resolve = resolve;
  for (int attempt = 0;; attempt++) {
    const long fd = ::syscall(SYS_openat2, dirfd, path, &how, sizeof how);
    if (fd >= 0) return UniqueFd(static_cast<int>(fd));
    if ((errno != EAGAIN && errno != EINTR) || attempt == 32) return FailedWithErrno("openat2");
  }
}

Result<UniqueFd> openat2_in_root(int root, const char* path, uint64_t flags, mode_t mode) {
  return openat2(root, path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

Result<UniqueFd> make_directories_in_root(int root, const char* path, mode_t mode) {
  // The common case first: it is there.
  Result<UniqueFd> whole = openat2_in_root(root, path, O_PATH | O_DIRECTORY, 0);
  if (whole || whole.failure().error != ENOENT) return whole;

  // ".." is resolved by openat2 of the text so far, so links keep their meaning; each
  // missing component is made below the descriptor of its parent.
  std::string so_far;
  Result<UniqueFd> parent = openat2_in_root(root, "/", O_PATH | O_DIRECTORY, 0);
  if (!parent) return parent;
  for (const char* at = path; *at != '\0';) {
    while (*at == '/') at++;
    const char* end = strchr(at, '/');
    if (end == nullptr) end = at + strlen(at);
    const std::string name(at, end);
    at = end;
    if (name.empty()) break;
    so_far += '/';
    so_far += name;
    Result<UniqueFd> next = openat2_in_root(root, so_far.c_str(), O_PATH | O_DIRECTORY, 0);
    if (!next && next.failure().error == ENOENT && name != "." && name != "..") {
      if (::mkdirat(parent->get(), name.c_str(), mode) < 0 && errno != EEXIST) {
        return FailedWithErrno("mkdirat");
      }
      next = openat2_in_root(root, so_far.c_str(), O_PATH | O_DIRECTORY, 0);
    }
    if (!next) return next;
    parent = std::move(next);
  }
  return parent;
}

Result<UniqueFd> open_at(int dirfd, const char* path, int flags, mode_t mode) {
  int fd;
  do {
    fd = ::openat(dirfd, path, flags | O_CLOEXEC, mode);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) return FailedWithErrno("openat");
  return UniqueFd(fd);
}

Result<std::string> ReadAll(int fd, size_t cap_bytes) {
  std::string text;
  struct stat status;
  size_t expected = 4096;
  if (::fstat(fd, &status) == 0 && S_ISREG(status.st_mode) && status.st_size > 0) {
    if (static_cast<uint64_t>(status.st_size) > cap_bytes) return Failure{"read", EFBIG};
    expected = static_cast<size_t>(status.st_size) + 1;
  }
  size_t used = 0;
  for (;;) {
    if (used == text.size()) text.resize(used == 0 ? expected : used * 2);
    const ssize_t got = ::read(fd, text.data() + used, text.size() - used);
    if (got < 0) {
      if (errno == EINTR) continue;
      return FailedWithErrno("read");
    }
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used > cap_bytes) return Failure{"read", EFBIG};
  }
  text.resize(used);
  return text;
}

Result<std::string> ReadFileAt(int dirfd, const char* path, size_t cap_bytes) {
  // O_NONBLOCK: opening a FIFO in the place of the file must not hang.
  Result<UniqueFd> fd = open_at(dirfd, path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return fd.failure();
  struct stat status;
  if (::fstat(fd->get(), &status) < 0) return FailedWithErrno("fstat");
  if (!S_ISREG(status.st_mode)) return Failure{"read", S_ISDIR(status.st_mode) ? EISDIR : EINVAL};
  return ReadAll(fd->get(), cap_bytes);
}

Result<void> WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return FailedWithErrno("write");
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

Result<void> WriteFileAt(int dirfd, const char* path, std::string_view text) {
  Result<UniqueFd> fd = open_at(dirfd, path, O_WRONLY | O_NOCTTY);
  if (!fd) return fd.failure();
  ssize_t written;
  do {
    written = ::write(fd->get(), text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written < 0) return FailedWithErrno("write");
  if (static_cast<size_t>(written) != text.size()) return Failure{"write", EIO};
  return {};
}

namespace {

Result<void> Rename(int dirfd, const char* temporary, const char* name) {
  if (::renameat(dirfd, temporary, dirfd, name) < 0) return FailedWithErrno("rename");
  return {};
}

// As Rename, with no write to the disk behind it: ext4 starts one for a file that is renamed over
// another (ext4(5), "auto_da_alloc"), which costs a millisecond and more. Two names that are
// exchanged are not that.
Result<void> Exchange(int dirfd, const char* temporary, const char* name) {
  if (::renameat2(dirfd, temporary, dirfd, name, RENAME_EXCHANGE) == 0) {
    // The old contents. Left by a process that dies here, they are a temporary file as any other.
    if (::unlinkat(dirfd, temporary, 0) == 0 || errno != EISDIR) return {};
    if (::renameat2(dirfd, temporary, dirfd, name, RENAME_EXCHANGE) < 0) return FailedWithErrno("rename");
    return Failure{"rename", EISDIR};
  }
  // ENOENT: there is no old one. EINVAL: the file system cannot exchange.
  if (errno != ENOENT && errno != EINVAL) return FailedWithErrno("rename");
  return Rename(dirfd, temporary, name);
}

}  // namespace

Result<void> WriteAtomically(int dirfd, const char* name, std::string_view text, mode_t mode,
                             bool durable) {
  static std::atomic<unsigned> counter{0};
  const char* slash = strrchr(name, '/');
  const size_t directory_length = slash == nullptr ? 0 : static_cast<size_t>(slash - name) + 1;
  const std::string directory_path(name, directory_length);
  const std::string temporary = directory_path + "." + (name + directory_length) + "." +
                                std::to_string(::getpid()) + "." +
                                std::to_string(counter.fetch_add(1));
  Result<UniqueFd> fd =
      open_at(dirfd, temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, mode);
  if (!fd) return fd.failure();
  Result<void> done = WriteAll(fd->get(), text);
  if (done && durable && ::fsync(fd->get()) < 0) done = FailedWithErrno("fsync");
  if (done) done = durable ? Rename(dirfd, temporary.c_str(), name) : Exchange(dirfd, temporary.c_str(), name);
  if (!done) {
    ::unlinkat(dirfd, temporary.c_str(), 0);
    return done;
  }
  if (durable) {
    Result<UniqueFd> directory = open_at(dirfd, slash == nullptr ? "." : directory_path.c_str(), O_RDONLY | O_DIRECTORY);
    if (!directory) return directory.failure();
    if (::fsync(directory->get()) < 0) return FailedWithErrno("fsync");
  }
  return {};
}

namespace {

// Not 0: ext4 takes that for the first half of an overwrite and writes the second to the disk at
// once (ext4(5), "auto_da_alloc").
constexpr off_t kSpareBytes = 1;

// False where it could not be, and is gone instead: nothing of what it held stays. A directory is EISDIR.
Result<bool> EmptySpare(int dirfd, const char* spare) {
  Result<UniqueFd> fd = open_at(dirfd, spare, O_WRONLY | O_NOFOLLOW);
  if (fd && ::ftruncate(fd->get(), kSpareBytes) == 0) return true;
  if (::unlinkat(dirfd, spare, 0) < 0 && errno == EISDIR) return FailedWithErrno("rename");
  return false;
}

Result<bool> ExchangeSpare(int dirfd, const char* spare, const char* name) {
  if (::renameat2(dirfd, spare, dirfd, name, RENAME_EXCHANGE) == 0) {
    Result<bool> emptied = EmptySpare(dirfd, spare);
    if (!emptied) (void)::renameat2(dirfd, spare, dirfd, name, RENAME_EXCHANGE);
    return emptied;
  }
  // ENOENT: there is no old one. EINVAL: the file system cannot exchange.
  if (errno != ENOENT && errno != EINVAL) return FailedWithErrno("rename");
  Result<void> renamed = Rename(dirfd, spare, name);
  if (!renamed) return renamed.failure();
  return false;
}

}  // namespace

Result<bool> WriteThroughSpare(int dirfd, const char* name, std::string_view text, mode_t mode,
                               const char* spare) {
  Result<UniqueFd> fd = open_at(dirfd, spare, O_WRONLY | O_CREAT | O_NOFOLLOW, mode);
  if (!fd) return fd.failure();
  Result<void> written = WriteAll(fd->get(), text);
  Result<bool> done = written ? ExchangeSpare(dirfd, spare, name) : Result<bool>(written.failure());
  if (!done) ::unlinkat(dirfd, spare, 0);
  return done;
}

Result<void> RetireToSpare(int dirfd, const char* name, const char* spare) {
  Result<void> renamed = Rename(dirfd, name, spare);
  if (renamed) (void)EmptySpare(dirfd, spare);
  return renamed;
}

}  // namespace sys
