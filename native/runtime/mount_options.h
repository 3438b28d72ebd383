// Mount options of the runtime spec -> what the kernel's mount calls take.
#pragma once

#include "runtime/plan.h"

namespace runtime {

// Fills flags, propagation and the options for fsconfig from `spec.options`. False: an option
// is impossible for this kind of mount; *message says why and *index which.
[[nodiscard]] bool ApplyMountOptions(const MountSpec& spec, Arena* arena, PlanMount* mount,
                                     size_t* index, std::string* message);

// Every option that ApplyMountOptions knows by name, for the features document.
std::vector<const char*> KnownMountOptions();

}  // namespace runtime
