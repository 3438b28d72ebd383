#include "sys/attached_overlay.h"

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

namespace sys {
namespace {

// What mount(2) takes of options, with the zero at the end.
constexpr size_t kOptionBytes = 4096;
constexpr size_t kStackBytes = 64 << 10;

// Shared with the child, which borrows the memory and the descriptors of its parent.
struct Helper {
  const OverlayDirs* overlay;
  int userns;
  std::vector<int> layers;  // lowers topmost first, and where there are any upper, work; -1 where not opened
  std::string options;      // has room for a page: the child must not allocate
  int tree = -1;
  Failure failure{nullptr, 0};
};

int Fail(Helper* helper, const char* op, int error) {
  helper->failure = {op, error};
  return 1;
}

// A clone of the layer's mount with its ids mapped, over the layer's own directory: overlayfs takes
// attached mounts only, and any place does, since nobody else sees this namespace.
int AttachMapped(Helper* helper, int directory, int* layer) {
  auto tree = open_tree(directory, "", OPEN_TREE_CLONE | AT_EMPTY_PATH);
  if (!tree) return Fail(helper, tree.failure().op, tree.failure().error);
  auto done = mount_setattr_idmap(tree->get(), false, helper->userns);
  if (done) done = move_mount_onto(tree->get(), directory);
  if (!done) return Fail(helper, done.failure().op, done.failure().error);
  ::close(directory);
  *layer = tree->release();
  return 0;
}

// Layers are named by descriptor: of two or three digits instead of a path's length, and with
// no meaning of ":" and "," in them. They are opened in the child's mount namespace, since
// overlayfs takes private copies of mounts of the caller's namespace only.
int OpenLayers(Helper* helper) {
  const OverlayDirs& overlay = *helper->overlay;
  for (size_t i = 0; i < helper->layers.size(); i++) {
    const size_t lowers = overlay.lower.size();
    const std::string& path = i < lowers ? overlay.lower[i] : i == lowers ? overlay.upper : overlay.work;
    const int fd = ::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return Fail(helper, "open", errno);
    helper->layers[i] = fd;
    if (helper->userns < 0 || i >= lowers) continue;
    if (const int failed = AttachMapped(helper, fd, &helper->layers[i]); failed != 0) return failed;
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

// In the child. Allocates nothing: the heap is the parent's, whose calling thread sleeps meanwhile.
int RunHelper(void* argument) {
  Helper* helper = static_cast<Helper*>(argument);
  if (auto own = unshare(CLONE_NEWNS); !own) return Fail(helper, own.failure().op, own.failure().error);
  // Nothing that is mounted here may reach the host.
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) < 0) return Fail(helper, "mount", errno);
  if (const int failed = OpenLayers(helper); failed != 0) return failed;
  if (!WriteOptions(helper)) return Fail(helper, "mount", E2BIG);
  if (::chdir("/proc/self/fd") < 0) return Fail(helper, "chdir", errno);
  // Any directory does: nobody else sees this namespace.
  const OverlayDirs& overlay = *helper->overlay;
  const char* target = overlay.upper.empty() ? overlay.lower[0].c_str() : overlay.upper.c_str();
  if (::mount("overlay", target, "overlay", 0, helper->options.data()) < 0) {
    return Fail(helper, "mount", errno);
  }
  auto tree = open_tree(AT_FDCWD, target, OPEN_TREE_CLONE);
  if (!tree) return Fail(helper, tree.failure().op, tree.failure().error);
  helper->tree = tree->release();
  return 0;
}

}  // namespace

Result<UniqueFd> MakeAttachedOverlay(const OverlayDirs& overlay, int userns) {
  Helper helper;
  helper.overlay = &overlay;
  helper.userns = userns;
  helper.layers.assign(overlay.lower.size() + (overlay.upper.empty() ? 0 : 2), -1);
  helper.options.assign(kOptionBytes, '\0');
  std::vector<char> stack(kStackBytes);

  // A signal handler of the parent must not run on the child's stack.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  CloneRequest request;
  request.flags = CLONE_FILES;
  UniqueFd pidfd;
  auto pid = clone3_vfork(request, &pidfd, stack.data(), stack.size(), RunHelper, &helper);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (!pid) return pid.failure();
  auto ended = waitid_pidfd(pidfd.get(), 0, nullptr);

  UniqueFd tree(helper.tree);
  for (const int fd : helper.layers) UniqueFd closes(fd);
  if (helper.failure.op != nullptr) return helper.failure;
  if (!ended) return ended.failure();
  if (!tree.valid()) return Failure{"clone3", ECHILD};
  return tree;
}

}  // namespace sys
