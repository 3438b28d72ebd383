// The descriptor-based mount API of the kernel (Linux 5.2 and later), one wrapper per call.
//
// Everything is mounted by descriptor: a source is resolved once, a target is resolved once,
// and nobody can exchange either in between. Constants come from libc's <sys/mount.h>, which
// is why this header has another name.
#pragma once

#include <fcntl.h>
#include <stdint.h>
#include <sys/mount.h>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace sys {

// flags: OPEN_TREE_CLONE, AT_RECURSIVE, AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW; OPEN_TREE_CLOEXEC
// is added. With OPEN_TREE_CLONE the mount disappears with the descriptor unless moved.
// Expect ENOENT, EPERM, EINVAL (unbindable, or a mount of another namespace).
Result<UniqueFd> open_tree(int dirfd, const char* path, unsigned flags);

// Expect EINVAL (target is a different type than the source, or the source is attached in
// another namespace), ENOSPC (/proc/sys/fs/mount-max), ELOOP.
Result<void> move_mount(int from_dirfd, const char* from, int to_dirfd, const char* to,
                        unsigned flags);

// Moves the mount `from` itself onto the file or directory `to` itself.
Result<void> move_mount_onto(int from, int to);

// FSOPEN_CLOEXEC is added. Expect ENODEV (no such filesystem type).
Result<UniqueFd> fsopen(const char* type, unsigned flags);

// fsconfig(2), one function per command used. After EINVAL, read(fs) gives the kernel's message.
Result<void> fsconfig_set_flag(int fs, const char* key);
Result<void> fsconfig_set_string(int fs, const char* key, const char* value);
Result<void> fsconfig_set_fd(int fs, const char* key, int fd);
Result<void> fsconfig_create(int fs);

// The kernel's explanations of a failed fsconfig, first line, without the "e " prefix;
// empty where there is none. `buffer` is always terminated.
void fs_message(int fs, char* buffer, unsigned long buffer_bytes);

// attributes: MOUNT_ATTR_*. FSMOUNT_CLOEXEC is added.
Result<UniqueFd> fsmount(int fs, unsigned attributes);

// A whole filesystem in one go: fsopen, options "key" or "key=value" (a null entry ends them),
// create, fsmount. The failure names the call that failed.
Result<UniqueFd> make_mount(const char* type, const char* const* options, unsigned attributes);

// flags: AT_EMPTY_PATH, AT_RECURSIVE. Linux 5.12.
Result<void> mount_setattr(int dirfd, const char* path, unsigned flags, uint64_t set,
                           uint64_t clear, uint64_t propagation);
// Maps the ids of a detached mount through the user namespace `userns`. Linux 5.12.
Result<void> mount_setattr_idmap(int mount, bool recursive, int userns);

// mount(2) with MS_BIND: the one way to bind a namespace file (nsfs) that works on every kernel
// since 3.8. Expect ENOENT, EINVAL (source is no mount of this namespace, and no nsfs file).
Result<void> bind_mount(const char* source, const char* target);

Result<void> umount2(const char* path, int flags);
Result<void> pivot_root(const char* new_root, const char* put_old);

}  // namespace sys
