#include "runtime/child_identity.h"

#include <errno.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "runtime/child_calls.h"

namespace runtime::child {
namespace {

void DropBounding(uint64_t keep) {
  for (int capability = 0; capability < 64; capability++) {
    if ((keep >> capability & 1) != 0) continue;
    if (prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0) {
      if (errno == EINVAL) return;  // past the last one this kernel has
      FailErrno(Call::prctl_);
    }
  }
}

}  // namespace

CapabilitySets Grantable(const CapabilitySets& asked) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct own[2];
  if (syscall(SYS_capget, &header, own) < 0) FailErrno(Call::capset_);
  const uint64_t permitted = own[0].permitted | (uint64_t{own[1].permitted} << 32);
  CapabilitySets sets = asked;
  sets.permitted &= permitted;
  sets.effective &= permitted;
  sets.inheritable &= permitted;
  sets.ambient &= permitted;
  return sets;
}

void SetCapabilities(const CapabilitySets& sets, uint64_t besides) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  const uint64_t effective = sets.effective | besides;
  const uint64_t permitted = sets.permitted | besides;
  const struct __user_cap_data_struct wanted[2] = {
      {static_cast<uint32_t>(effective), static_cast<uint32_t>(permitted),
       static_cast<uint32_t>(sets.inheritable)},
      {static_cast<uint32_t>(effective >> 32), static_cast<uint32_t>(permitted >> 32),
       static_cast<uint32_t>(sets.inheritable >> 32)}};
  if (syscall(SYS_capset, &header, wanted) < 0) FailErrno(Call::capset_);
}

// capabilities(7): the bounding set is dropped while CAP_SETPCAP is there; KEEPCAPS carries
// the permitted set over setresuid, which would clear it; ambient comes last, since it must be
// a subset of permitted and inheritable.
void SetUserAndCapabilities(const PlanProcess& process, const CapabilitySets& sets,
                            uint64_t besides) {
  At(Step::kCapabilities);
  DropBounding(process.capabilities.bounding);
  if (process.uid != 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0) FailErrno(Call::prctl_);
  At(Step::kUser);
  if (syscall(SYS_setgroups, process.groups.size(), process.groups.data()) < 0) {
    FailErrno(Call::setgroups_);
  }
  if (syscall(SYS_setresgid, process.gid, process.gid, process.gid) < 0) {
    FailErrno(Call::setresgid_);
  }
  if (syscall(SYS_setresuid, process.uid, process.uid, process.uid) < 0) {
    FailErrno(Call::setresuid_);
  }
  At(Step::kCapabilities);
  SetCapabilities(sets, besides);
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0) FailErrno(Call::prctl_);
  for (int capability = 0; capability < 64; capability++) {
    if ((sets.ambient >> capability & 1) != 0 &&
        prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0) < 0) {
      FailErrno(Call::prctl_);
    }
  }
}

}  // namespace runtime::child
