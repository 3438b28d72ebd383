// A container's root file system, layers and a writable upper one, as one overlay mount: made from
// descriptors where the kernel takes them, and the ways round what older kernels refuse.
#pragma once

#include <string>

#include "runtime/container.h"
#include "sys/unique_fd.h"

namespace runtime {

// The overlay as a detached mount, layers by descriptor.
// userns: maps the layers' ids where overlay.is_idmapped.
[[nodiscard]] bool MakeOverlay(const OverlayRoot& overlay, int userns, sys::UniqueFd* root,
                               Problem* problem);

// The overlay as a mount at `target`, an existing directory of the caller's mount namespace.
[[nodiscard]] bool MountRootfs(const OverlayRoot& overlay, const std::string& target, Problem* problem);

}  // namespace runtime
