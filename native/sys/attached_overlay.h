// An overlay for kernels without `lowerdir+` (before Linux 6.5), and for those whose overlayfs takes
// no detached mounts as layers, which id-mapped ones are (before Linux 6.15).
#pragma once

#include <string>
#include <vector>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace sys {

struct OverlayDirs {
  std::vector<std::string> lower;  // absolute directories, topmost first
  std::string upper, work;         // absolute; `work` is empty and fresh for every start. Both "": read-only
  bool is_volatile = true;         // no sync of the upper layer, ever (overlayfs.rst, "Volatile mount")
};

// A detached overlay as of fsmount(2), by mount(2). A value of fsconfig(2) is limited to
// 255 bytes there, a page of mount options holds all 500 layers that overlayfs allows. It can
// only be mounted somewhere: a child does so in a mount namespace of its own, which ends with it.
//
// userns: -1, or maps the lower layers' ids. Each is then a mount over its own directory, in the
// child's mount namespace alone.
//
// Expect E2BIG where the layers do not fit in a page, EINVAL where their file system or overlayfs
// (before Linux 5.19) takes no id-mapped mounts; else what open(2), mount(2) and open_tree(2) say.
// THREADS: any.
Result<UniqueFd> MakeAttachedOverlay(const OverlayDirs& overlay, int userns);

}  // namespace sys
