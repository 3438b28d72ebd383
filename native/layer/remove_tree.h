// Removes a directory tree by descriptors, whatever bytes its names are made of.
#pragma once

#include "sys/result.h"

namespace layer {

// Removes `name` in the directory and everything below it, following no link and crossing no
// mount point. Success where there was nothing. Depth is bounded by memory, not by descriptors.
sys::Result<void> RemoveTree(int dirfd, const char* name);

}  // namespace layer
