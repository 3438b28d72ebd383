// What the spec reader refuses, and with which JSON path.
#include <doctest/doctest.h>

#include "runtime/plan.h"
#include "runtime/spec.h"

namespace {

std::string SpecWith(const std::string& process, const std::string& rest) {
  return R"({"ociVersion":"1.3.0","root":{"path":"rootfs"},"process":{"args":["true"],"cwd":"/")" +
         process + R"(},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}])" + rest + "}}";
}

std::string PathOfError(const std::string& text) {
  runtime::Spec spec;
  runtime::SpecError error;
  if (!runtime::ReadSpec(text, &spec, &error)) return error.json_path;
  runtime::Plan plan;
  if (!runtime::MakePlan(std::move(spec), &plan, &error)) return error.json_path;
  return "accepted";
}

}  // namespace

TEST_CASE("ReadSpec accepts a minimal spec and ignores unknown properties") {
  CHECK(PathOfError(SpecWith("", "")) == "accepted");
  CHECK(PathOfError(SpecWith(R"(,"unknownThing":{"a":[1]})", "")) == "accepted");
}

TEST_CASE("ReadSpec names the JSON path of an impossible value") {
  CHECK(PathOfError(SpecWith(R"(,"user":{"uid":-1})", "")) == "process.user.uid");
  CHECK(PathOfError(SpecWith(R"(,"user":{"uid":4294967295})", "")) == "process.user.uid");
  CHECK(PathOfError(SpecWith(R"(,"user":{"additionalGids":[1,"x"]})", "")) ==
        "process.user.additionalGids[1]");
  CHECK(PathOfError(SpecWith(R"(,"rlimits":[{"type":"RLIMIT_X","hard":1,"soft":1}])", "")) ==
        "process.rlimits[0].type");
  CHECK(PathOfError(SpecWith(R"(,"rlimits":[{"type":"RLIMIT_CPU","hard":1,"soft":2}])", "")) ==
        "process.rlimits[0].soft");
  CHECK(PathOfError(SpecWith(R"(,"capabilities":{"bounding":["CAP_NOPE"]})", "")) ==
        "process.capabilities.bounding[0]");
  CHECK(PathOfError(SpecWith(R"(,"capabilities":{"effective":["CAP_KILL"]})", "")) ==
        "process.capabilities.effective");
  CHECK(PathOfError(SpecWith(R"(,"oomScoreAdj":1001)", "")) == "process.oomScoreAdj");
  CHECK(PathOfError(SpecWith("", R"(,"rootfsPropagation":"upside")")) ==
        "linux.rootfsPropagation");
  CHECK(PathOfError(SpecWith("", R"(,"maskedPaths":["relative"])")) == "linux.maskedPaths");
  CHECK(PathOfError(SpecWith("", R"(,"devices":[{"path":"/dev/x","type":"q"}])")) ==
        "linux.devices[0].type");
  CHECK(PathOfError(SpecWith("", R"(,"seccomp":{"defaultAction":"SCMP_ACT_MAYBE"})")) ==
        "linux.seccomp.defaultAction");
}

TEST_CASE("ReadSpec refuses a sysctl that is not of a namespace the container has") {
  CHECK(PathOfError(SpecWith("", R"(,"sysctl":{"net.ipv4.ip_forward":"1"})")) ==
        "linux.sysctl.net.ipv4.ip_forward");
  CHECK(PathOfError(SpecWith("", R"(,"sysctl":{"kernel.panic":"1"})")) ==
        "linux.sysctl.kernel.panic");
}

TEST_CASE("ReadSpec refuses resources that cgroup v2 has nothing for, and takes zero as unset") {
  const auto resources = [](const std::string& text) {
    return PathOfError(SpecWith("", ",\"resources\":{" + text + "}"));
  };
  CHECK(resources(R"("memory":{"kernel":1024})") == "linux.resources.memory.kernel");
  CHECK(resources(R"("memory":{"swappiness":60})") == "linux.resources.memory.swappiness");
  CHECK(resources(R"("memory":{"disableOOMKiller":true})") ==
        "linux.resources.memory.disableOOMKiller");
  CHECK(resources(R"("cpu":{"realtimeRuntime":1})") == "linux.resources.cpu.realtimeRuntime");
  CHECK(resources(R"("network":{"classID":1})") == "linux.resources.network.classID");
  CHECK(resources(R"("memory":{"kernel":0,"swappiness":-1,"disableOOMKiller":false})") ==
        "accepted");
  CHECK(resources(R"("blockIO":{"weightDevice":[{"major":8,"minor":0,"weight":5}]})") ==
        "linux.resources.blockIO.weightDevice[0].weight");
}

TEST_CASE("ReadSpec refuses a unified file that acts on processes or is a path") {
  const auto unified = [](const std::string& file) {
    return PathOfError(
        SpecWith("", ",\"resources\":{\"unified\":{\"" + file + "\":\"0\"}}"));
  };
  CHECK(unified("cgroup.procs") == "linux.resources.unified.cgroup.procs");
  CHECK(unified("cgroup.kill") == "linux.resources.unified.cgroup.kill");
  CHECK(unified("../memory.max") == "linux.resources.unified.../memory.max");
  CHECK(unified("cgroup.max.depth") == "accepted");
}

TEST_CASE("ReadSpec refuses a string with a zero byte") {
  CHECK(PathOfError(SpecWith(R"(,"env":["A=\u0000b"])", "")) == "process.env[0]");
}

TEST_CASE("ReadSpec refuses text that is too deep, too large or not JSON") {
  CHECK(PathOfError(std::string(100, '[')) == "");
  CHECK(PathOfError("{\"a\":" + std::string(9u << 20, ' ') + "1}") == "");
  CHECK(PathOfError("{") == "");
  CHECK(PathOfError("[]") == "");
  CHECK(PathOfError("") == "");
  CHECK(PathOfError("{\"dddddddddddddddddddddddddddd\xf3\x9d") == "");
}

// Found by fuzzing: rapidjson's full precision shifts by what it never set.
TEST_CASE("ReadSpec takes a number of any exponent where no field reads it") {
  for (const char* number : {"0e244", "0.000e-300", "1e-400", "9e307"}) {
    CHECK(PathOfError(SpecWith("", std::string(R"(,"x":)") + number)) == "accepted");
  }
}

TEST_CASE("ReadSpec refuses flags of a personality") {
  CHECK(PathOfError(SpecWith("", R"(,"personality":{"domain":"LINUX32","flags":["x"]})")) ==
        "linux.personality.flags[0]");
}

TEST_CASE("MakePlan refuses a user namespace without a mount namespace") {
  const std::string spec = R"({"ociVersion":"1.3.0","root":{"path":"r"},
        "process":{"args":["true"],"cwd":"/"},"linux":{"namespaces":[)";
  const std::string maps = R"([{"containerID":0,"hostID":1,"size":1}])";
  CHECK(PathOfError(spec + R"({"type":"user"}],"uidMappings":)" + maps + R"(,"gidMappings":)" + maps + "}}") ==
        "linux.namespaces");
  CHECK(PathOfError(spec + R"({"type":"pid"}]}})") == "accepted");
}

TEST_CASE("ReadSpec refuses impossible network devices and groups of resctrl") {
  const std::string net = R"({"type":"mount"},{"type":"network"})";
  const auto linux_with = [&](const std::string& rest) {
    return PathOfError(R"({"ociVersion":"1.3.0","root":{"path":"r"},"process":{"args":["true"],"cwd":"/"},
                          "linux":{"namespaces":[)" + net + "]," + rest + "}}");
  };
  CHECK(linux_with(R"("netDevices":{"eth0":{},"eth1":{"name":"net%d"}})") == "accepted");
  CHECK(linux_with(R"("netDevices":{"a/b":{}})") == "linux.netDevices.a/b");
  CHECK(linux_with(R"("netDevices":{"net%d":{}})") == "linux.netDevices.net%d");
  CHECK(linux_with(R"("netDevices":{"eth0":{"name":"a b"}})") == "linux.netDevices.eth0.name");
  CHECK(linux_with(R"("netDevices":{"eth0":{"name":"%s"}})") == "linux.netDevices.eth0.name");
  CHECK(linux_with(R"("netDevices":[])") == "linux.netDevices");
  CHECK(linux_with(R"("intelRdt":{"closID":"/"})") == "accepted");
  CHECK(linux_with(R"("intelRdt":{"closID":"a/../b"})") == "linux.intelRdt.closID");
  CHECK(linux_with(R"("intelRdt":{"closID":".."})") == "linux.intelRdt.closID");
  CHECK(linux_with(R"("intelRdt":{"memBwSchema":"L3:0=f"})") == "linux.intelRdt.memBwSchema");
  CHECK(linux_with(R"("intelRdt":{"enableCMT":true})") == "linux.intelRdt.enableCMT");
  CHECK(linux_with(R"("intelRdt":{"enableMBM":true})") == "linux.intelRdt.enableMBM");
  CHECK(linux_with(R"("intelRdt":{"schemata":["L3:0=f\n"]})") == "linux.intelRdt.schemata[0]");
}

TEST_CASE("MakePlan passes over a file system option of a bind mount, and refuses other words") {
  const auto spec_with = [](const std::string& option) {
    return R"({"ociVersion":"1.3.0","root":{"path":"r"},"process":{"args":["true"],"cwd":"/"},
               "mounts":[{"destination":"/a","source":"/b","options":["bind","ro",")" +
           option + R"("]}],"linux":{"namespaces":[{"type":"mount"}]}})";
  };
  CHECK(PathOfError(spec_with("size=1")) == "accepted");
  CHECK(PathOfError(spec_with("robind")) == "mounts[0].options[2]");
  CHECK(PathOfError(spec_with("idmap=uids=0-1-2")) == "mounts[0].options[2]");
  runtime::Spec read;
  runtime::Plan plan;
  runtime::SpecError error;
  REQUIRE(runtime::ReadSpec(spec_with("size=1"), &read, &error));
  REQUIRE(runtime::MakePlan(std::move(read), &plan, &error));
  REQUIRE(plan.warnings.size() == 1);
  CHECK(plan.warnings[0] == "mounts[0].options: ignoring \"size=1\": a bind mount has no file system options");
}
