// Who the process is: its user, groups and capabilities. SIGNAL-SAFE; see child_calls.h.
#pragma once

#include <stdint.h>

#include "runtime/child.h"

namespace runtime::child {

// What the caller itself does not have cannot be given (runtime-spec config.md, "capabilities":
// a runtime should not fail over those).
CapabilitySets Grantable(const CapabilitySets& asked);

// Effective, permitted and inheritable; `besides` is kept in the first two.
void SetCapabilities(const CapabilitySets& sets, uint64_t besides);

// The bounding set, the user and groups, then `sets` with `besides`.
void SetUserAndCapabilities(const PlanProcess& process, const CapabilitySets& sets, uint64_t besides);

}  // namespace runtime::child
