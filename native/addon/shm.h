// The tmpfs that the containers of a sandbox share as /dev/shm.
#pragma once

#include <stdint.h>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace addon {

// A detached tmpfs, and the proof that the kernel can clone it for each container: up to
// Linux 6.14 only attached mounts could be cloned (EINVAL from "open_tree").
// THREADS: any.
sys::Result<sys::UniqueFd> MakeShm(uint64_t size_bytes);

}  // namespace addon
