#include "runtime/labels.h"

#include <fcntl.h>

#include "runtime/describe_report.h"
#include "sys/files.h"

namespace runtime {
namespace {

// selinuxfs is registered where SELinux was enabled at boot, mounted or not.
bool HasSelinux() {
  auto text = sys::ReadFileAt(AT_FDCWD, "/proc/filesystems", 1 << 16);
  return text && text->find("\tselinuxfs\n") != std::string::npos;
}

// A file of sysfs says that it has a page, whatever it holds.
bool HasAppArmor() {
  auto text = sys::ReadFileAt(AT_FDCWD, "/sys/module/apparmor/parameters/enabled", 8192);
  return text && (*text)[0] == 'Y';
}

bool Refuse(const char* json_path, const char* message, Problem* problem) {
  *problem = DescribeSpecError({json_path, message});
  return false;
}

}  // namespace

std::string DropMountLabel(Spec* spec) {
  if (spec->mount_label[0] == '\0' || HasSelinux()) return "";
  spec->mount_label = "";
  return "linux.mountLabel: ignoring the label: SELinux is not enabled in this kernel";
}

bool CheckLabels(const Plan& plan, Problem* problem) {
  if (plan.process.selinux_label[0] != '\0' && !HasSelinux()) {
    return Refuse("process.selinuxLabel", "is set, but SELinux is not enabled in this kernel", problem);
  }
  if (plan.process.apparmor_profile[0] != '\0' && !HasAppArmor()) {
    return Refuse("process.apparmorProfile", "is set, but AppArmor is not enabled in this kernel",
                  problem);
  }
  return true;
}

}  // namespace runtime
