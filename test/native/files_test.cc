// Files replaced as a whole.
#include <doctest/doctest.h>
#include <dirent.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/files.h"

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
