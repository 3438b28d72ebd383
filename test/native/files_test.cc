// Files replaced as a whole, trees removed as a whole.
#include <doctest/doctest.h>
#include <dirent.h>
#include <stdlib.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/files.h"
#include "sys/tree.h"

namespace {

std::string TemporaryDirectory() {
  char path[] = "/tmp/minke-files-XXXXXX";
  REQUIRE(::mkdtemp(path) != nullptr);
  return path;
}

int EntriesOf(const std::string& directory) {
  DIR* stream = ::opendir(directory.c_str());
  REQUIRE(stream != nullptr);
  int count = 0;
  while (::readdir(stream) != nullptr) count++;
  ::closedir(stream);
  return count - 2;
}

}  // namespace

TEST_CASE("WriteAtomically replaces contents and mode and leaves no other name") {
  const std::string directory = TemporaryDirectory();
  const std::string file = directory + "/record.json";
  for (const bool durable : {false, true, false}) {
    REQUIRE(sys::WriteAtomically(AT_FDCWD, file.c_str(), "a longer text", 0644, durable).ok());
    REQUIRE(sys::WriteAtomically(AT_FDCWD, file.c_str(), "short", 0600, durable).ok());
    auto text = sys::ReadFileAt(AT_FDCWD, file.c_str(), 100);
    REQUIRE(text.ok());
    CHECK(*text == "short");
    struct stat status;
    REQUIRE(::stat(file.c_str(), &status) == 0);
    CHECK((status.st_mode & 07777) == 0600);
    CHECK(EntriesOf(directory) == 1);
  }
  ::unlink(file.c_str());
  ::rmdir(directory.c_str());
}

TEST_CASE("WriteAtomically that cannot replace leaves the old name and no other") {
  const std::string directory = TemporaryDirectory();
  const std::string file = directory + "/taken";
  REQUIRE(::mkdir(file.c_str(), 0700) == 0);
  REQUIRE(::mkdir((file + "/below").c_str(), 0700) == 0);
  for (const bool durable : {false, true}) {
    auto written = sys::WriteAtomically(AT_FDCWD, file.c_str(), "text", 0600, durable);
    REQUIRE_FALSE(written.ok());
    CHECK(written.failure().error == EISDIR);
    CHECK(::access((file + "/below").c_str(), F_OK) == 0);
  }
  CHECK(EntriesOf(directory) == 1);
  ::rmdir((file + "/below").c_str());
  ::rmdir(file.c_str());
  ::rmdir(directory.c_str());
}

off_t SizeOf(const std::string& path) {
  struct stat status;
  return ::stat(path.c_str(), &status) == 0 ? status.st_size : -1;
}

TEST_CASE("WriteThroughSpare leaves the old file empty as the spare, or on failure as it was") {
  const std::string directory = TemporaryDirectory();
  const std::string file = directory + "/record.json";
  const std::string spare = directory + "/.spare";
  const auto write = [&](const char* text) {
    return sys::WriteThroughSpare(AT_FDCWD, file.c_str(), text, 0600, spare.c_str());
  };
  auto first = write("first text");
  REQUIRE(first.ok());
  CHECK_FALSE(*first);
  CHECK(EntriesOf(directory) == 1);
  for (const char* text : {"second", "third and longest", "4th"}) {
    auto again = write(text);
    REQUIRE(again.ok());
    CHECK(*again);
    auto written = sys::ReadFileAt(AT_FDCWD, file.c_str(), 100);
    REQUIRE(written.ok());
    CHECK(*written == text);
    CHECK(SizeOf(spare) == 1);
  }
  REQUIRE(sys::RetireToSpare(AT_FDCWD, file.c_str(), spare.c_str()).ok());
  CHECK(SizeOf(spare) == 1);
  CHECK(sys::RetireToSpare(AT_FDCWD, file.c_str(), spare.c_str()).failure().error == ENOENT);
  CHECK(EntriesOf(directory) == 1);

  REQUIRE(::mkdir(file.c_str(), 0700) == 0);
  CHECK(write("text").failure().error == EISDIR);
  CHECK(EntriesOf(directory) == 1);
  CHECK(::rmdir(file.c_str()) == 0);
  ::rmdir(directory.c_str());
}

TEST_CASE("RemoveTree removes what is nested deeper than descriptors reach, and follows no link") {
  const std::string directory = TemporaryDirectory();
  const std::string kept = TemporaryDirectory();
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (kept + "/file").c_str(), "x", 0600, false).ok());
  const std::string tree = directory + "/tree";
  REQUIRE(::mkdir(tree.c_str(), 0700) == 0);
  REQUIRE(::symlink(kept.c_str(), (tree + "/link").c_str()) == 0);
  auto at = sys::open_at(AT_FDCWD, tree.c_str(), O_RDONLY | O_DIRECTORY);
  REQUIRE(at.ok());
  constexpr int kLevels = 3000;
  for (int level = 0; level < kLevels; level++) {
    REQUIRE(::mkdirat(at->get(), "d", 0700) == 0);
    auto file = sys::open_at(at->get(), "f", O_WRONLY | O_CREAT, 0600);
    REQUIRE(file.ok());
    at = sys::open_at(at->get(), "d", O_RDONLY | O_DIRECTORY);
    REQUIRE(at.ok());
  }
  CHECK(sys::RemoveTree(tree.c_str()).ok());
  CHECK(EntriesOf(directory) == 0);
  CHECK(EntriesOf(kept) == 1);
  CHECK(sys::RemoveTree(tree.c_str()).ok());
  CHECK(sys::RemoveTree((kept + "/file").c_str()).failure().error == ENOTDIR);
  CHECK(sys::RemoveTree(kept.c_str()).ok());
  ::rmdir(directory.c_str());
}

TEST_CASE("RemoveTree does not enter what is mounted below and answers EBUSY") {
  const std::string directory = TemporaryDirectory();
  const std::string mounted = directory + "/mounted";
  REQUIRE(::mkdir(mounted.c_str(), 0700) == 0);
  REQUIRE(::mount("none", mounted.c_str(), "tmpfs", 0, "size=4096") == 0);
  REQUIRE(sys::WriteAtomically(AT_FDCWD, (mounted + "/file").c_str(), "", 0600, false).ok());
  CHECK(sys::RemoveTree(directory.c_str()).failure().error == EBUSY);
  CHECK(::access((mounted + "/file").c_str(), F_OK) == 0);
  REQUIRE(::umount2(mounted.c_str(), MNT_DETACH) == 0);
  CHECK(sys::RemoveTree(directory.c_str()).ok());
}
