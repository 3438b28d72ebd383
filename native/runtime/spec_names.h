// Names of the runtime spec and their kernel values, as sorted or small tables.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

namespace runtime {

struct NamedValue {
  const char* name;
  uint64_t value;
};

// Looks a name up; null where the table does not have it.
template <size_t kCount>
const NamedValue* FindNamed(const NamedValue (&table)[kCount], const char* name) {
  for (const NamedValue& entry : table) {
    if (strcmp(entry.name, name) == 0) return &entry;
  }
  return nullptr;
}

// Capability number of "CAP_NET_ADMIN"; -1 where there is no such name.
int CapabilityByName(const char* name);
const char* CapabilityName(int number);
constexpr int kLastCapability = 40;  // CAP_CHECKPOINT_RESTORE

// RLIMIT_* of "RLIMIT_NOFILE"; -1 where there is no such name.
int RlimitByName(const char* name);

// CLONE_NEW* of "network" and the like; 0 where there is no such name.
int NamespaceByName(const char* name);
const char* NamespaceName(int type);

// MS_SHARED, MS_SLAVE, MS_PRIVATE or MS_UNBINDABLE, with MS_REC for the r-variants, of
// "rslave" and the like; 0 where there is no such name.
uint64_t PropagationByName(const char* name);

}  // namespace runtime
