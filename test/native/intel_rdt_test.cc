// Groups of resctrl in a tree of plain files: what is compared, written and taken back. That the
// kernel obeys is not shown here; no test machine has the hardware.
#include <doctest/doctest.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>

#include "runtime/outside.h"
#include "sys/files.h"

namespace fs = std::filesystem;

namespace {

class Resctrl {
 public:
  Resctrl() {
    char path[] = "/tmp/minke-resctrl-test-XXXXXX";
    REQUIRE(mkdtemp(path) != nullptr);
    root = path;
  }
  ~Resctrl() { fs::remove_all(root); }
  void Group(const std::string& name, const std::string& schemata) const {
    fs::create_directories(root + name + "/mon_groups");
    Write(name + "/schemata", schemata);
    Write(name + "/tasks", "");
  }
  void Write(const std::string& name, const std::string& text) const {
    REQUIRE(sys::WriteAtomically(AT_FDCWD, (root + name).c_str(), text, 0644, false).ok());
  }
  std::string Read(const std::string& name) const {
    auto text = sys::ReadFileAt(AT_FDCWD, (root + name).c_str(), 4096);
    return text ? *text : "";
  }

  std::string root;
};

struct Entered {
  bool ok;
  runtime::Outside outside;
  runtime::Problem problem;
};

Entered Enter(const Resctrl& tree, const runtime::IntelRdtSpec& spec) {
  Entered entered;
  entered.ok = runtime::EnterRdtGroups(spec, tree.root, "ctr", 4711, &entered.outside, &entered.problem);
  return entered;
}

}  // namespace

TEST_CASE("a container enters the group that closID names, and the group stays") {
  Resctrl tree;
  tree.Group("/gold", "");
  runtime::IntelRdtSpec spec;
  spec.clos_id = "gold";
  const Entered entered = Enter(tree, spec);
  CHECK(entered.problem.message == "");
  CHECK(tree.Read("/gold/tasks") == "4711");
  CHECK(tree.Read("/gold/schemata") == "");
  CHECK(entered.outside.groups.empty());
}

TEST_CASE("closID \"/\" is the root group") {
  Resctrl tree;
  tree.Group("", "");
  runtime::IntelRdtSpec spec;
  spec.clos_id = "/";
  CHECK(Enter(tree, spec).ok);
  CHECK(tree.Read("/tasks") == "4711");
}

TEST_CASE("closID of a group that does not exist, without a schema, is refused by its path") {
  Resctrl tree;
  runtime::IntelRdtSpec spec;
  spec.clos_id = "gold";
  const Entered entered = Enter(tree, spec);
  CHECK_FALSE(entered.ok);
  CHECK(entered.problem.json_path == "linux.intelRdt.closID");
  CHECK_FALSE(fs::exists(tree.root + "/gold"));
}

TEST_CASE("schemas of an existing group must be those that it has, however they are written") {
  Resctrl tree;
  runtime::IntelRdtSpec spec;
  spec.clos_id = "gold";
  spec.l3_cache_schema = "L3:0=00f;1=ff";
  spec.mem_bw_schema = "MB:0=50";
  tree.Group("/gold", "    MB:0= 50;1=100\n    L3:0=f;1=0ff\n");
  CHECK(Enter(tree, spec).problem.message == "");
  tree.Group("/gold", "MB:0=60\nL3:0=f;1=ff\n");
  CHECK(Enter(tree, spec).problem.json_path == "linux.intelRdt.memBwSchema");
  tree.Group("/gold", "MB:0=50\nL3:0=f;1=f\n");
  CHECK(Enter(tree, spec).problem.json_path == "linux.intelRdt.l3CacheSchema");
}

TEST_CASE("a group that cannot be filled is taken back") {
  Resctrl tree;  // plain directories get no files of their own: the first write fails
  runtime::IntelRdtSpec spec;
  for (const char* line : {"", "L3:0=f"}) {
    spec.l3_cache_schema = line;
    for (const char* clos : {"", "gold"}) {
      spec.clos_id = clos;
      const Entered entered = Enter(tree, spec);
      CHECK_FALSE(entered.ok);
      CHECK(entered.outside.groups.empty());
      CHECK(fs::is_empty(tree.root));
    }
  }
}

TEST_CASE("a monitoring group that cannot be made or entered is an error, and is taken back") {
  Resctrl tree;
  tree.Group("/gold", "");
  runtime::IntelRdtSpec spec;
  spec.clos_id = "gold";
  spec.has_monitoring = true;
  CHECK_FALSE(Enter(tree, spec).ok);
  CHECK(fs::is_empty(tree.root + "/gold/mon_groups"));
  fs::remove(tree.root + "/gold/mon_groups");
  tree.Write("/info", "");  // where the kernel's own words would be
  const Entered entered = Enter(tree, spec);
  CHECK(entered.problem.message.find("linux.intelRdt.enableMonitoring: make group") == 0);
}
