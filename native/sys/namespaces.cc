#include "sys/namespaces.h"

#include <linux/nsfs.h>
#include <sys/ioctl.h>

namespace sys {

Result<void> setns(int fd, int type) {
  if (::setns(fd, type) < 0) return FailedWithErrno("setns");
  return {};
}

Result<void> unshare(int flags) {
  if (::unshare(flags) < 0) return FailedWithErrno("unshare");
  return {};
}

Result<int> namespace_type(int fd) {
  const int type = ::ioctl(fd, NS_GET_NSTYPE);
  if (type < 0) return FailedWithErrno("ioctl");
  return type;
}

}  // namespace sys
