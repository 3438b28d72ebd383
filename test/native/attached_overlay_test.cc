// The overlay of a rootfs, and the one for kernels before Linux 6.5, which every kernel can make: layers, limits, traces.
#include <doctest/doctest.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <filesystem>
#include <string>

#include "runtime/overlay.h"
#include "runtime/user_namespace.h"
#include "sys/attached_overlay.h"
#include "sys/files.h"

namespace {

namespace fs = std::filesystem;

// Layers 0 to count-1, topmost first; each holds the file "own-<n>", and "shared" with its number.
class Layers {
 public:
  explicit Layers(int count) {
    for (int i = 0; i < count; i++) {
      const std::string layer = directory_ + "/" + std::to_string(i);
      fs::create_directory(layer);
      const std::string number = std::to_string(i);
      REQUIRE(sys::WriteAtomically(AT_FDCWD, (layer + "/own-" + number).c_str(), number, 0644, false).ok());
      REQUIRE(sys::WriteAtomically(AT_FDCWD, (layer + "/shared").c_str(), number, 0644, false).ok());
      overlay.lower.push_back(layer);
    }
    for (const char* name : {"upper", "work"}) fs::create_directory(directory_ + "/" + name);
    overlay.upper = directory_ + "/upper";
    overlay.work = directory_ + "/work";
  }
  ~Layers() { fs::remove_all(directory_); }

  sys::OverlayDirs overlay;

 private:
  static std::string Make() {
    std::string path = "/tmp/minke-overlay-XXXXXX";
    return ::mkdtemp(path.data()) != nullptr ? path : "";
  }
  const std::string directory_ = Make();
};

std::string ReadIn(const sys::UniqueFd& root, const std::string& name) {
  auto text = sys::ReadFileAt(root.get(), name.c_str(), 64);
  return text ? *text : "unreadable";
}

size_t OpenDescriptors() {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator("/proc/self/fd")) count++;
  return count;
}

// An upper directory cannot be on an overlay, which /tmp may be.
bool CanMount() { return ::geteuid() == 0; }

}  // namespace

TEST_CASE("an attached overlay shows 128 layers in their order and takes writes in its upper") {
  if (!CanMount()) return;
  Layers layers(128);
  const size_t open_before = OpenDescriptors();
  auto root = sys::MakeAttachedOverlay(layers.overlay, -1);
  REQUIRE(root.ok());
  CHECK(ReadIn(*root, "shared") == "0");
  CHECK(ReadIn(*root, "own-0") == "0");
  CHECK(ReadIn(*root, "own-127") == "127");

  REQUIRE(sys::WriteAtomically(root->get(), "new", "x", 0644, false).ok());
  CHECK(fs::exists(layers.overlay.upper + "/new"));
  CHECK_FALSE(fs::exists(layers.overlay.lower[0] + "/new"));

  auto mounts_after = sys::ReadFileAt(AT_FDCWD, "/proc/self/mountinfo", 1 << 20);
  REQUIRE(mounts_after.ok());
  CHECK(std::string(*mounts_after).find(layers.overlay.upper) == std::string::npos);
  CHECK(OpenDescriptors() == open_before + 1);
}

TEST_CASE("an attached overlay of a layer that is not there fails with ENOENT and leaves nothing") {
  if (!CanMount()) return;
  Layers layers(2);
  layers.overlay.lower[1] += "-gone";
  const size_t open_before = OpenDescriptors();
  auto root = sys::MakeAttachedOverlay(layers.overlay, -1);
  REQUIRE_FALSE(root.ok());
  CHECK(root.failure().error == ENOENT);
  CHECK(OpenDescriptors() == open_before);
}

TEST_CASE("an attached overlay with colons and commas in its paths is made") {
  if (!CanMount()) return;
  Layers layers(1);
  const std::string odd = layers.overlay.lower[0] + ":a,b";
  fs::rename(layers.overlay.lower[0], odd);
  layers.overlay.lower[0] = odd;
  auto root = sys::MakeAttachedOverlay(layers.overlay, -1);
  REQUIRE(root.ok());
  CHECK(ReadIn(*root, "own-0") == "0");
}

TEST_CASE("an attached overlay without an upper shows its layers and takes no writes") {
  if (!CanMount()) return;
  Layers layers(2);
  layers.overlay.upper = layers.overlay.work = "";
  layers.overlay.is_volatile = false;
  auto root = sys::MakeAttachedOverlay(layers.overlay, -1);
  REQUIRE(root.ok());
  CHECK(ReadIn(*root, "shared") == "0");
  CHECK(ReadIn(*root, "own-1") == "1");
  auto written = sys::WriteAtomically(root->get(), "new", "x", 0644, false);
  REQUIRE_FALSE(written.ok());
  CHECK(written.failure().error == EROFS);
}

TEST_CASE("an attached overlay maps the ids of its layers and not of its upper, and the host sees none of it") {
  if (!CanMount()) return;
  Layers layers(3);
  auto userns = runtime::MakeUserNamespace({{0, 100000, 1000}}, {{0, 100000, 1000}});
  REQUIRE(userns.ok());
  for (const std::string& layer : layers.overlay.lower) REQUIRE(::chown((layer + "/shared").c_str(), 7, 8) == 0);
  const size_t open_before = OpenDescriptors();
  auto root = sys::MakeAttachedOverlay(layers.overlay, userns->get());
  if (!root.ok() && root.failure().error == EINVAL) {
    // tmpfs before Linux 6.3; each case is a process of its own (test/native/doctest.test.ts).
    struct statfs info = {};
    if (::statfs(layers.overlay.upper.c_str(), &info) == 0 && info.f_type == TMPFS_MAGIC) {
      fs::remove_all(fs::path(layers.overlay.upper).parent_path());
      ::printf("missing: id-mapped mounts of tmpfs (Linux 6.3)\n");
      ::exit(77);
    }
  }
  REQUIRE(root.ok());
  struct stat status;
  REQUIRE(::fstatat(root->get(), "own-2", &status, 0) == 0);
  CHECK(status.st_uid == 100000);
  REQUIRE(::fstatat(root->get(), "shared", &status, 0) == 0);
  CHECK(status.st_uid == 100007);
  CHECK(status.st_gid == 100008);
  CHECK(::fchownat(root->get(), "shared", 100005, 100006, 0) == 0);
  REQUIRE(::stat((layers.overlay.upper + "/shared").c_str(), &status) == 0);
  CHECK(status.st_uid == 100005);
  auto mounts_after = sys::ReadFileAt(AT_FDCWD, "/proc/self/mountinfo", 1 << 20);
  CHECK(std::string(*mounts_after).find(fs::path(layers.overlay.upper).parent_path()) == std::string::npos);
  CHECK(OpenDescriptors() == open_before + 1);
}

// overlayfs stacks two deep: a layer on two overlays is refused (EINVAL) after the work directory was marked.
// So was each start in a user namespace on Linux 6.5 to 6.14, which then mounts its layers another way.
TEST_CASE("a volatile overlay that the kernel refuses leaves its work directory for the next attempt") {
  if (!CanMount()) return;
  REQUIRE(::unshare(CLONE_NEWNS) == 0);
  REQUIRE(::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0);
  Layers first(1), second(1), third(1);
  runtime::Problem problem;
  REQUIRE(runtime::MountRootfs({first.overlay}, first.overlay.lower[0], &problem));
  second.overlay.lower[0] = first.overlay.lower[0];
  REQUIRE(runtime::MountRootfs({second.overlay}, second.overlay.upper, &problem));
  runtime::OverlayRoot deep = {third.overlay};
  deep.lower.push_back(second.overlay.upper);
  sys::UniqueFd root;
  REQUIRE_FALSE(runtime::MakeOverlay(deep, -1, &root, &problem));
  REQUIRE(problem.errno_name == "EINVAL");
  REQUIRE(runtime::MakeOverlay({third.overlay}, -1, &root, &problem));
  CHECK(ReadIn(root, "own-0") == "0");
  // The mark of a mount that was stays.
  root.reset();
  CHECK_FALSE(runtime::MakeOverlay({third.overlay}, -1, &root, &problem));
  CHECK(problem.errno_name == "EINVAL");
  CHECK(::umount2(second.overlay.upper.c_str(), MNT_DETACH) == 0);
  CHECK(::umount2(first.overlay.lower[0].c_str(), MNT_DETACH) == 0);
}

// The number that the store allows an image: a page of options has room for it.
TEST_CASE("an attached overlay takes 500 layers") {
  if (!CanMount()) return;
  Layers layers(500);
  auto root = sys::MakeAttachedOverlay(layers.overlay, -1);
  REQUIRE(root.ok());
  CHECK(ReadIn(*root, "shared") == "0");
  CHECK(ReadIn(*root, "own-499") == "499");
}
