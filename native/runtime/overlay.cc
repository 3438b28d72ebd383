#include "runtime/overlay.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <utility>
#include <vector>

#include "runtime/describe_report.h"
#include "sys/files.h"
#include "sys/mount_api.h"

namespace runtime {
namespace {

// userns: -1, or what maps the layer's ids, which makes it a detached mount of its own.
sys::Result<void> AddLayer(int fs, const char* key, const std::string& path, int userns,
                           std::vector<sys::UniqueFd>* opened) {
  auto fd = userns < 0 ? sys::open_at(AT_FDCWD, path.c_str(), O_PATH | O_DIRECTORY)
                       : sys::open_tree(AT_FDCWD, path.c_str(), OPEN_TREE_CLONE);
  if (!fd) return fd.failure();
  if (userns >= 0) {
    if (auto set = sys::mount_setattr_idmap(fd->get(), false, userns); !set) return set;
  }
  auto set = sys::fsconfig_set_fd(fs, key, fd->get());
  if (!set && (set.failure().error == EINVAL || set.failure().error == EBADF)) {
    // Descriptors are taken since Linux 6.13, before with EINVAL, or EBADF for an O_PATH one;
    // a path of at most 255 bytes does.
    const std::string link = "/proc/self/fd/" + std::to_string(fd->get());
    set = sys::fsconfig_set_string(fs, key, link.c_str());
  }
  opened->push_back(std::move(*fd));
  return set;
}

bool MakeDetachedOverlay(const OverlayRoot& overlay, int userns, sys::UniqueFd* root,
                         Problem* problem) {
  auto fs = sys::fsopen("overlay", 0);
  if (!fs) return FailStep(Step::kRootfs, "make overlay", fs.failure(), problem);
  std::vector<sys::UniqueFd> opened;
  for (const std::string& lower : overlay.lower) {
    if (auto added = AddLayer(fs->get(), "lowerdir+", lower, userns, &opened); !added) {
      return FailStep(Step::kRootfs, "overlay layer " + Quote(lower), added.failure(), problem);
    }
  }
  const std::pair<const char*, const std::string&> writable[] = {{"upperdir", overlay.upper},
                                                                 {"workdir", overlay.work}};
  for (const auto& [key, path] : writable) {
    if (path.empty()) continue;
    if (auto added = AddLayer(fs->get(), key, path, -1, &opened); !added) {
      return FailStep(Step::kRootfs, std::string("overlay ") + key + " " + Quote(path), added.failure(),
                      problem);
    }
  }
  sys::Result<void> done;
  if (overlay.is_volatile) done = sys::fsconfig_set_flag(fs->get(), "volatile");
  if (done) done = sys::fsconfig_create(fs->get());
  if (!done) {
    char message[256];
    sys::fs_message(fs->get(), message, sizeof message);
    FailStep(Step::kRootfs, "make overlay", done.failure(), problem);
    if (message[0] != '\0') problem->message += std::string(" (") + message + ")";
    return false;
  }
  auto mount = sys::fsmount(fs->get(), 0);
  if (!mount) return FailStep(Step::kRootfs, "make overlay", mount.failure(), problem);
  *root = std::move(*mount);
  return true;
}

// overlayfs marks the work directory of a volatile mount, which it refuses to use again, before it
// looks at the lower layers: what it refuses then leaves the mark of a mount that never was
// (overlayfs.rst, "Volatile mount"). The mark of a mount that was is left alone.
class VolatileMark {
 public:
  explicit VolatileMark(const OverlayRoot& overlay) : directory_(overlay.work + "/work/incompat/volatile") {
    is_to_come_ = overlay.is_volatile && ::access(directory_.c_str(), F_OK) < 0;
  }
  void Remove() const {
    if (!is_to_come_) return;
    ::unlink((directory_ + "/dirty").c_str());
    ::rmdir(directory_.c_str());
  }

 private:
  const std::string directory_;
  bool is_to_come_;
};

// Without space for its work directory overlayfs says so in the kernel's log and goes on read-only.
bool CheckWritable(const OverlayRoot& overlay, int root, Problem* problem) {
  struct statvfs status;
  if (overlay.upper.empty() || ::fstatvfs(root, &status) < 0 || (status.f_flag & ST_RDONLY) == 0) return true;
  const std::string probe = overlay.work + "/probe";
  const int why = ::mkdir(probe.c_str(), 0700) < 0 ? errno : EROFS;
  if (why == EROFS) ::rmdir(probe.c_str());
  return FailStep(Step::kRootfs, "make the work directory of an overlay in " + Quote(overlay.work), {"mkdir", why},
                  problem);
}

bool MakeAnyOverlay(const OverlayRoot& overlay, int userns, sys::UniqueFd* root, Problem* problem) {
  // Before Linux 6.5 overlayfs has no options of its own in fsconfig(2), which refuses a descriptor;
  // before 6.15 it takes no detached mounts as layers, which id-mapped ones are (EINVAL).
  static bool lacks_options = false;
  static bool lacks_detached_layers = false;
  const VolatileMark mark(overlay);
  if (!lacks_options && (userns < 0 || !lacks_detached_layers)) {
    if (MakeDetachedOverlay(overlay, userns, root, problem)) return true;
    mark.Remove();
    if (problem->errno_name == "EOPNOTSUPP") {
      lacks_options = true;
    } else if (userns < 0 || problem->errno_name != "EINVAL") {
      return false;
    }
  }
  auto mount = sys::MakeAttachedOverlay(overlay, userns);
  if (!mount) {
    mark.Remove();
    return FailStep(Step::kRootfs, "make overlay", mount.failure(), problem);
  }
  // Only now: EINVAL also says that a layer's file system maps no ids, which both ways are refused.
  if (userns >= 0) lacks_detached_layers = true;
  *root = std::move(*mount);
  return true;
}

}  // namespace

bool MakeOverlay(const OverlayRoot& overlay, int userns, sys::UniqueFd* root, Problem* problem) {
  return MakeAnyOverlay(overlay, userns, root, problem) && CheckWritable(overlay, root->get(), problem);
}

bool MountRootfs(const OverlayRoot& overlay, const std::string& target, Problem* problem) {
  auto directory = sys::open_at(AT_FDCWD, target.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW);
  if (!directory) return FailStep(Step::kRootfs, "open " + Quote(target), directory.failure(), problem);
  sys::UniqueFd root;
  if (!MakeOverlay(overlay, -1, &root, problem)) return false;
  auto moved = sys::move_mount_onto(root.get(), directory->get());
  return moved || FailStep(Step::kRootfs, "mount overlay at " + Quote(target), moved.failure(), problem);
}

}  // namespace runtime
