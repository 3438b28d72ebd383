#include "monitor/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/unique_fd.h"

namespace monitor {

sys::Result<void> MakeCgroup(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) < 0) return sys::FailedWithErrno("mkdir");
  return {};
}

sys::Result<void> RemoveCgroup(const std::string& path) {
  if (::rmdir(path.c_str()) < 0 && errno != ENOENT) return sys::FailedWithErrno("rmdir");
  return {};
}

sys::Result<void> KillCgroup(const std::string& path) {
  const sys::UniqueFd file(::open((path + "/cgroup.kill").c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return sys::FailedWithErrno("open");
  if (::write(file.get(), "1", 1) < 0) return sys::FailedWithErrno("write");
  return {};
}

uint64_t ReadOomKills(const std::string& path) {
  const sys::UniqueFd file(::open((path + "/memory.events").c_str(), O_RDONLY | O_CLOEXEC));
  char text[512];
  const ssize_t size = file.valid() ? ::read(file.get(), text, sizeof text - 1) : 0;
  if (size <= 0) return 0;
  text[size] = '\0';
  const char* const line = strstr(text, "\noom_kill ");
  return line == nullptr ? 0 : strtoull(line + strlen("\noom_kill "), nullptr, 10);
}

}  // namespace monitor
