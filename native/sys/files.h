// Files by descriptor: resolving inside a root, reading with a cap, writing whole.
//
// Nothing here follows a magic link or leaves the directory it was given, and nothing reads
// without a limit: the contents may come from an image.
#pragma once

#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <string_view>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace sys {

// O_CLOEXEC is added. resolve: RESOLVE_* of linux/openat2.h. Linux 5.6.
// Expect EAGAIN (a rename raced with the resolution; retried here up to 32 times),
// ELOOP (a magic link or, with NO_SYMLINKS, any link), EXDEV.
Result<UniqueFd> openat2(int dirfd, const char* path, uint64_t flags, mode_t mode,
                         uint64_t resolve);

// openat2 with RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS: `root` is "/" for the path and its links.
Result<UniqueFd> openat2_in_root(int root, const char* path, uint64_t flags, mode_t mode);

// Directories on the way to `path` inside `root` are made as needed (mkdirat per component,
// each opened again by openat2 in root), and the last one is returned as O_PATH descriptor.
Result<UniqueFd> make_directories_in_root(int root, const char* path, mode_t mode);

// Plain openat(2), O_CLOEXEC added.
Result<UniqueFd> open_at(int dirfd, const char* path, int flags, mode_t mode = 0);

// All of a descriptor from its current offset. EFBIG where it holds more than cap_bytes.
Result<std::string> ReadAll(int fd, size_t cap_bytes);
// All of a regular file or a kernel file. EFBIG as above.
Result<std::string> ReadFileAt(int dirfd, const char* path, size_t cap_bytes);

// Every byte, going on after short writes and EINTR.
Result<void> WriteAll(int fd, std::string_view text);
// Writes an existing file (cgroup, sysctl, /proc) with one write(2), as the kernel's files want.
Result<void> WriteFileAt(int dirfd, const char* path, std::string_view text);

// Replaces `name` (a path below the directory, or absolute) by a temporary file beside it and rename(2): a reader sees the old
// or the new contents. `durable` adds fsync of the file and of the directory.
Result<void> WriteAtomically(int dirfd, const char* name, std::string_view text, mode_t mode,
                             bool durable);

// As WriteAtomically without `durable`, by way of a spare file of the same directory that is made
// where it is missing: making an inode is what costs, on ext4 the more of them were deleted lately,
// as it does not take those again for minutes and looks at each of them. A spare holds nothing but
// one byte, and `text` is longer. On failure it is gone.
//
// Returns true where the spare is there again: it was the old file.
Result<bool> WriteThroughSpare(int dirfd, const char* name, std::string_view text, mode_t mode,
                               const char* spare);

// Removes a file by making it a spare. Expect ENOENT.
Result<void> RetireToSpare(int dirfd, const char* name, const char* spare);

}  // namespace sys
