// The child's work on its root file system. SIGNAL-SAFE; see child_calls.h.
#pragma once

#include "runtime/child.h"

namespace runtime::child {

// Attaches the root, mounts, devices, masks and makes it "/". Returns the pty slave where the
// process has a terminal, else -1.
int PrepareRootfs(const ChildContext& context);

// exec: a pty of the container, whose root is "/" already. Returns the slave.
int OpenExecTerminal(const ChildContext& context);

// Runs hooks one after another with the state on their standard input. Fails on the first
// that does not end with status 0 in time; reports count the hooks from first_index.
void RunChildHooks(const ChildHook* hooks, size_t count, int state, size_t first_index);

// tmpcopyup: copies what `from` (O_PATH) holds into the detached mount `to`, with owners, modes
// and links; other mounts below `from` are left out.
void CopyUp(int from, int to);

}  // namespace runtime::child
