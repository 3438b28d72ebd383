#include "sys/memfd.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "sys/files.h"
#include "sys/process.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif

namespace sys {
namespace {

constexpr int kSeals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;

// Whether this program runs from a sealed memfd, or through a read-only mount that is detached:
// the link's path is then the mount's root, "/".
bool IsOutOfReach(int self) {
  const int seals = ::fcntl(self, F_GET_SEALS);
  if (seals >= 0) return (seals & kSeals) == kSeals;
  struct statfs filesystem;
  char link[2];
  return ::fstatfs(self, &filesystem) == 0 && (filesystem.f_flags & ST_RDONLY) != 0 &&
         ::readlink("/proc/self/exe", link, sizeof link) == 1 && link[0] == '/';
}

}  // namespace

Result<UniqueFd> sealed_executable(int source, const char* name) {
  int raw = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_EXEC);
  // Remove once the oldest supported kernel is 6.3.
  if (raw < 0 && errno == EINVAL) raw = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (raw < 0) return FailedWithErrno("memfd_create");
  UniqueFd memfd(raw);

  struct stat status;
  if (::fstat(source, &status) < 0) return FailedWithErrno("fstat");
  off_t offset = 0;
  while (offset < status.st_size) {
    const ssize_t sent =
        ::sendfile(memfd.get(), source, &offset, static_cast<size_t>(status.st_size - offset));
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return FailedWithErrno("sendfile");
    if (sent == 0) return Failure{"sendfile", EIO};
  }
  if (::fcntl(memfd.get(), F_ADD_SEALS, kSeals | F_SEAL_EXEC) < 0) {
    // Remove once the oldest supported kernel is 6.3.
    if (errno != EINVAL || ::fcntl(memfd.get(), F_ADD_SEALS, kSeals) < 0) {
      return FailedWithErrno("fcntl");
    }
  }
  return memfd;
}

Result<void> reexec_from_sealed_memfd(const char* name, char* const argv[], char* const envp[]) {
  Result<UniqueFd> self = open_at(AT_FDCWD, "/proc/self/exe", O_RDONLY);
  if (!self) return self.failure();
  if (IsOutOfReach(self->get())) return {};
  Result<UniqueFd> sealed = sealed_executable(self->get(), name);
  if (!sealed) return sealed.failure();
  return execveat(sealed->get(), "", argv, envp, AT_EMPTY_PATH);
}

}  // namespace sys
