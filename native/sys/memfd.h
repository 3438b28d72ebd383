// An executable in a sealed memfd: nothing, and no container above all, can write to it
// (the class of CVE-2019-5736, /proc/self/exe).
#pragma once

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace sys {

// Copies a program file into a memfd and seals it against every change. `name` shows in
// /proc/PID/exe. MFD_EXEC is used where the kernel knows it (6.3), F_SEAL_EXEC likewise.
Result<UniqueFd> sealed_executable(int source, const char* name);

// Runs this very program again from a sealed memfd, unless it runs from one already or through a
// read-only mount that is detached (oci/early_start.cc). Returns a failure, or success where
// nothing had to be done; on re-execution it does not return.
Result<void> reexec_from_sealed_memfd(const char* name, char* const argv[], char* const envp[]);

}  // namespace sys
