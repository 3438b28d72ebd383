// Whether this kernel has the security module that a spec's labels are for.
#pragma once

#include "runtime/container.h"
#include "runtime/plan.h"

namespace runtime {

// False: a label or a profile is asked for that nothing here would enforce; *problem names it by
// JSON path. Running without would be less than what was asked for.
[[nodiscard]] bool CheckLabels(const Plan& plan, Problem* problem);

// Takes the label of the mounts away where the kernel has no SELinux: without its policy a label
// allows and forbids nothing. Answers the warning, or "".
std::string DropMountLabel(Spec* spec);

}  // namespace runtime
