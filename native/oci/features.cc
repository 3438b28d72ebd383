// features: what this runtime can do, as runtime-spec features.md defines; and spec: a sample
// config.json to start from.
#include <errno.h>
#include <fcntl.h>
#include <rapidjson/prettywriter.h>
#include <rapidjson/stringbuffer.h>
#include <stdio.h>

#include "oci/commands.h"
#include "oci/options.h"
#include "runtime/describe_report.h"
#include "runtime/mount_options.h"
#include "runtime/spec_names.h"
#include "sys/files.h"

namespace oci {
namespace {

using Writer = rapidjson::PrettyWriter<rapidjson::StringBuffer>;

template <typename List>
void Strings(Writer* writer, const char* key, const List& list) {
  writer->Key(key);
  writer->StartArray();
  for (const char* text : list) writer->String(text);
  writer->EndArray();
}

void Enabled(Writer* writer, const char* key, bool is_enabled) {
  writer->Key(key);
  writer->StartObject();
  writer->Key("enabled");
  writer->Bool(is_enabled);
  writer->EndObject();
}

void Seccomp(Writer* writer) {
  static constexpr const char* kActions[] = {
      "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS",
      "SCMP_ACT_KILL_THREAD", "SCMP_ACT_LOG", "SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE",
      "SCMP_ACT_TRAP"};
  static constexpr const char* kOperators[] = {"SCMP_CMP_EQ", "SCMP_CMP_GE", "SCMP_CMP_GT",
                                               "SCMP_CMP_LE", "SCMP_CMP_LT",
                                               "SCMP_CMP_MASKED_EQ", "SCMP_CMP_NE"};
  static constexpr const char* kFlags[] = {
      "SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC",
      "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"};
  writer->Key("seccomp");
  writer->StartObject();
  writer->Key("enabled");
  writer->Bool(true);
  Strings(writer, "actions", kActions);
  Strings(writer, "operators", kOperators);
  Strings(writer, "knownFlags", kFlags);
  Strings(writer, "supportedFlags", kFlags);
  writer->EndObject();
}

void MemoryPolicy(Writer* writer) {
  static constexpr const char* kModes[] = {
      "MPOL_DEFAULT", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_WEIGHTED_INTERLEAVE",
      "MPOL_PREFERRED", "MPOL_PREFERRED_MANY", "MPOL_LOCAL"};
  static constexpr const char* kFlags[] = {"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES",
                                           "MPOL_F_STATIC_NODES"};
  writer->Key("memoryPolicy");
  writer->StartObject();
  Strings(writer, "modes", kModes);
  Strings(writer, "flags", kFlags);
  writer->EndObject();
}

void IntelRdt(Writer* writer) {
  writer->Key("intelRdt");
  writer->StartObject();
  for (const char* part : {"enabled", "schemata", "monitoring"}) {
    writer->Key(part);
    writer->Bool(true);
  }
  writer->EndObject();
}

void Linux(Writer* writer) {
  static constexpr const char* kNamespaces[] = {"cgroup", "ipc",  "mount", "network",
                                                "pid",    "time", "user",  "uts"};
  std::vector<const char*> capabilities;
  for (int i = 0; i <= runtime::kLastCapability; i++) {
    capabilities.push_back(runtime::CapabilityName(i));
  }
  writer->Key("linux");
  writer->StartObject();
  Strings(writer, "namespaces", kNamespaces);
  Strings(writer, "capabilities", capabilities);
  writer->Key("cgroup");
  writer->StartObject();
  for (const char* off : {"v1", "systemd", "systemdUser"}) {
    writer->Key(off);
    writer->Bool(false);
  }
  for (const char* on : {"v2", "rdma"}) {
    writer->Key(on);
    writer->Bool(true);
  }
  writer->EndObject();
  Seccomp(writer);
  Enabled(writer, "apparmor", true);
  Enabled(writer, "selinux", true);
  IntelRdt(writer);
  MemoryPolicy(writer);
  Enabled(writer, "netDevices", true);
  writer->Key("mountExtensions");
  writer->StartObject();
  Enabled(writer, "idmap", true);
  writer->EndObject();
  writer->EndObject();
}

}  // namespace

int CommandFeatures(const GlobalOptions& global, const Arguments& arguments) {
  if (!arguments.empty()) return Complain(global, "features takes no arguments");
  static constexpr const char* kHooks[] = {"prestart",       "createRuntime", "createContainer",
                                           "startContainer", "poststart",     "poststop"};
  rapidjson::StringBuffer buffer;
  Writer writer(buffer);
  writer.StartObject();
  writer.Key("ociVersionMin");
  writer.String("1.0.0");
  writer.Key("ociVersionMax");
  writer.String("1.3.0");
  Strings(&writer, "hooks", kHooks);
  Strings(&writer, "mountOptions", runtime::KnownMountOptions());
  Linux(&writer);
  writer.EndObject();
  ::puts(buffer.GetString());
  return 0;
}

int CommandSpec(const GlobalOptions& global, const Arguments& arguments) {
  static constexpr const char* kSample = R"({
  "ociVersion": "1.3.0",
  "process": {
    "terminal": true,
    "user": { "uid": 0, "gid": 0 },
    "args": ["sh"],
    "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
    "cwd": "/",
    "capabilities": {
      "bounding": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "effective": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"],
      "permitted": ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    },
    "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
    "noNewPrivileges": true
  },
  "root": { "path": "rootfs", "readonly": true },
  "hostname": "minke",
  "mounts": [
    { "destination": "/proc", "type": "proc", "source": "proc" },
    { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
    { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
    { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"] },
    { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"] },
    { "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"] },
    { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "relatime", "ro"] }
  ],
  "linux": {
    "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
    "namespaces": [{ "type": "pid" }, { "type": "network" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "cgroup" }],
    "maskedPaths": ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"],
    "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
  }
}
)";
  Options options({"bundle|b"}, {}, false);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  const std::string path = options.Value("bundle", ".") + "/config.json";
  auto file = sys::open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644);
  sys::Result<void> written;
  if (file) written = sys::WriteAll(file->get(), kSample);
  if (file && written) return 0;
  const sys::Failure& failure = file ? written.failure() : file.failure();
  return Complain(global, "write \"" + path + "\": " + failure.op + ": " +
                              runtime::ErrnoName(failure.error));
}

}  // namespace oci
