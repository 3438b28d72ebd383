#include "runtime/attached_overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "sys/mount_api.h"
#include "sys/namespaces.h"
#include "sys/process.h"

namespace runtime {
namespace {

// What mount(2) takes of options, with the zero at the end.
constexpr size_t kOptionBytes = 4096;
constexpr size_t kStackBytes = 64 << 10;

// Shared with the child, which borrows the memory and the descriptors of its parent.
struct Helper {
  const OverlayRoot* overlay;
  std::vector<int> layers;  // lowers topmost first, and where there are any upper, work; -1 where not opened
  std::string options;      // has room for a page: the child must not allocate
  int tree = -1;
  sys::Failure failure{nullptr, 0};
};

int Fail(Helper* helper, const char* op, int error) {
  helper->failure = {op, error};
  return 1;
}

// Layers are named by descriptor: of two or three digits instead of a path's length, and with
// no meaning of ":" and "," in them. They are opened in the child's mount namespace, since
// overlayfs takes private copies of mounts of the caller's namespace only.
int OpenLayers(Helper* helper) {
  const OverlayRoot& overlay = *helper->overlay;
  for (size_t i = 0; i < helper->layers.size(); i++) {
    const size_t lowers = overlay.lower.size();
    const std::string& path = i < lowers ? overlay.lower[i] : i == lowers ? overlay.upper : overlay.work;
    const int fd = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Fail(helper, "open", errno);
    helper->layers[i] = fd;
  }
  return 0;
}

// "lowerdir=7:8,upperdir=9,workdir=10", relative to /proc/self/fd.
bool WriteOptions(Helper* helper) {
  char* text = helper->options.data();
  size_t used = 0;
  const size_t lowers = helper->overlay->lower.size();
  for (size_t i = 0; i < helper->layers.size(); i++) {
    const char* before = i == 0 ? "lowerdir=" : i < lowers ? ":" : i == lowers ? ",upperdir=" : ",workdir=";
    const int put = ::snprintf(text + used, kOptionBytes - used, "%s%d", before, helper->layers[i]);
    if (put < 0 || used + static_cast<size_t>(put) >= kOptionBytes) return false;
    used += static_cast<size_t>(put);
  }
  if (!helper->overlay->is_volatile) return true;
  const int put = ::snprintf(text + used, kOptionBytes - used, ",volatile");
  return put > 0 && used + static_cast<size_t>(put) < kOptionBytes;
}

// In the child. Allocates nothing: the heap is the parent's.
int RunHelper(void* argument) {
  Helper* helper = static_cast<Helper*>(argument);
  if (auto own = sys::unshare(CLONE_NEWNS); !own) return Fail(helper, own.failure().op, own.failure().error);
  // Nothing that is mounted here may reach the host.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return Fail(helper, "mount", errno);
  if (const int failed = OpenLayers(helper); failed != 0) return failed;
  if (!WriteOptions(helper)) return Fail(helper, "mount", E2BIG);
  if (::chdir("/proc/self/fd") < 0) return Fail(helper, "chdir", errno);
  // Any directory does: nobody else sees this namespace.
  const OverlayRoot& overlay = *helper->overlay;
  const char* target = overlay.upper.empty() ? overlay.lower[0].c_str() : overlay.upper.c_str();
  if (::mount("overlay", target, "overlay", 0, helper->options.data()) < 0) {
    return Fail(helper, "mount", errno);
  }
  auto tree = sys::open_tree(AT_FDCWD, target, OPEN_TREE_CLONE);
  if (!tree) return Fail(helper, tree.failure().op, tree.failure().error);
  helper->tree = tree->release();
  return 0;
}

}  // namespace

sys::Result<sys::UniqueFd> MakeAttachedOverlay(const OverlayRoot& overlay) {
  Helper helper;
  helper.overlay = &overlay;
  helper.layers.assign(overlay.lower.size() + (overlay.upper.empty() ? 0 : 2), -1);
  helper.options.assign(kOptionBytes, '\0');
  std::vector<char> stack(kStackBytes);

  // A signal handler of the parent must not run on the child's stack.
  sigset_t all, before;
  ::sigfillset(&all);
  ::sigprocmask(SIG_SETMASK, &all, &before);
  sys::CloneRequest request;
  request.flags = CLONE_FILES;
  sys::UniqueFd pidfd;
  auto pid = sys::clone3_vfork(request, &pidfd, stack.data(), stack.size(), RunHelper, &helper);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  if (!pid) return pid.failure();
  auto ended = sys::waitid_pidfd(pidfd.get(), 0, nullptr);

  sys::UniqueFd tree(helper.tree);
  for (const int fd : helper.layers) sys::UniqueFd closes(fd);
  if (helper.failure.op != nullptr) return helper.failure;
  if (!ended) return ended.failure();
  if (!tree.valid()) return sys::Failure{"clone3", ECHILD};
  return tree;
}

}  // namespace runtime
