// Raw calls and path work for the child. SIGNAL-SAFE throughout: no heap, no stdio, no locks.
//
// Everything fails through Fail(), which reports and exits, so callers read straight through.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "runtime/child_report.h"

namespace runtime::child {

extern int report_fd;  // where Fail writes

// Where the child is: set before each piece of work, told by Fail.
struct Position {
  Step step = Step::kSetup;
  int32_t index = -1;
  uint16_t detail = 0;
};
extern Position position;

inline void At(Step step, int32_t index = -1) {
  position.step = step;
  position.index = index;
}

// Reports position, call and error, and exits. error 0: a check of our own failed.
[[noreturn]] void Fail(Call call, int error);
[[noreturn]] void FailErrno(Call call);

// Sends a report of another kind than a failure; `fd` rides along unless -1.
void Tell(ReportKind kind, int fd);
// Waits for the parent's byte; exits silently where the parent is gone.
void AwaitParent();

int OpenTree(int dirfd, const char* path, unsigned flags);
void MoveOnto(int mount, int target);
void SetMountAttributes(int mount, bool recursive, uint64_t set, uint64_t clear,
                        uint64_t propagation);
// fsopen, options, create, fsmount. `options` may be null.
int MakeMount(const char* type, const char* source, const char* const* options,
              uint64_t attributes);

// openat2 in root; -1 with errno where it cannot be.
int OpenInRoot(int root, const char* path, uint64_t flags, uint64_t resolve);

enum class Make { kNothing, kDirectory, kFile };

// The object at `path` inside `root` as an O_PATH descriptor. With kDirectory or kFile what is
// missing on the way and at the end is made, component by component, and links that point
// nowhere are followed inside the root. -1 with errno, and *call names what failed.
int Resolve(int root, const char* path, Make make, Call* call);

// Resolves the parent of `path`, making what is missing, and gives the last name.
int ResolveParent(int root, const char* path, const char** name, Call* call);

}  // namespace runtime::child
