// An overlay for kernels without `lowerdir+` (before Linux 6.5).
#pragma once

#include "runtime/container.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace runtime {

// The same detached overlay as MakeOverlay(), by mount(2). A value of fsconfig(2) is limited to
// 255 bytes there, a page of mount options holds all 500 layers that overlayfs allows. It can
// only be mounted somewhere: a child does so in a mount namespace of its own, which ends with it.
//
// Expect E2BIG where the layers do not fit in a page; else what open(2), mount(2) and
// open_tree(2) say. THREADS: single-threaded callers only.
sys::Result<sys::UniqueFd> MakeAttachedOverlay(const OverlayRoot& overlay);

}  // namespace runtime
