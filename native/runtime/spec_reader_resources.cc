// The spec's linux.resources, turned into the cgroup v2 files that carry them.
//
// The conversions of v1 terms are those of runtime-spec users everywhere: swap is v1's sum of
// memory and swap; shares 2..262144 map on weight 1..10000, 1024 being 100, the kernel's default.
#include <math.h>
#include <string.h>

#include "runtime/spec_reader.h"

namespace runtime {
namespace {

std::string OrMax(int64_t value) { return value < 0 ? "max" : std::to_string(value); }

void Add(Spec* spec, const char* controller, std::string file, std::string value,
         const char* json_path) {
  spec->resources.push_back({controller, std::move(file), std::move(value), json_path, "", ""});
}

// What cgroup v2 has no file for. Zero and false are what engines write for "unset".
void RefuseSet(const JsonNode& node) {
  if (!node.Has()) return;
  if (node.value()->IsBool() ? node.Bool() : node.Integer(INT64_MIN, INT64_MAX) != 0) {
    node.Refuse("is set, and cgroup v2 has nothing for it");
  }
}

// io.weight is there with CONFIG_BLK_CGROUP_IOCOST; the BFQ scheduler has a file of its own.
void AddIoWeight(const std::string& device, uint64_t weight, const char* path, Spec* spec) {
  Add(spec, "io", "io.weight", device + " " + std::to_string(1 + (weight - 10) * 9999 / 990), path);
  spec->resources.back().other_file = "io.bfq.weight";
  spec->resources.back().other_value =
      (device == "default" ? "" : device + " ") + std::to_string(weight);
}

void ReadMemory(const JsonNode& memory, Spec* spec) {
  if (!memory.Has()) return;
  const JsonNode limit = memory["limit"];
  const JsonNode swap = memory["swap"];
  const JsonNode reservation = memory["reservation"];
  const int64_t limit_bytes = limit.Integer(-1, INT64_MAX);
  const int64_t swap_bytes = swap.Integer(-1, INT64_MAX);
  // 0 is "unset" for the engines that write specs.
  if (swap.Has() && swap_bytes != 0) {
    if (swap_bytes > 0 && (!limit.Has() || limit_bytes <= 0)) {
      return swap.Refuse("is set, but memory.limit is not");
    }
    if (swap_bytes > 0 && swap_bytes < limit_bytes) return swap.Refuse("is below memory.limit");
    Add(spec, "memory", "memory.swap.max", OrMax(swap_bytes < 0 ? -1 : swap_bytes - limit_bytes),
        "linux.resources.memory.swap");
  }
  if (limit.Has() && limit_bytes != 0) {
    Add(spec, "memory", "memory.max", OrMax(limit_bytes), "linux.resources.memory.limit");
  }
  if (const int64_t low = reservation.Integer(-1, INT64_MAX); reservation.Has() && low != 0) {
    Add(spec, "memory", "memory.low", OrMax(low), "linux.resources.memory.reservation");
  }
  for (const char* key : {"kernel", "kernelTCP", "disableOOMKiller"}) RefuseSet(memory[key]);
  // -1 is "unset" as well: the least value is 0.
  const JsonNode swappiness = memory["swappiness"];
  if (swappiness.Has() && swappiness.Integer(-1, INT64_MAX) != -1) RefuseSet(swappiness);
}

// The curve that opencontainers/cgroups and systemd's users agreed on, after a linear one that
// made 39 of the default 1024. src/runtime/update-container.ts has the same for updates.
uint64_t WeightOfShares(uint64_t shares) {
  if (shares <= 2) return 1;
  if (shares >= 262144) return 10000;
  const double exponent = log2(static_cast<double>(shares));
  return static_cast<uint64_t>(
      ceil(pow(10, (exponent * exponent + 125 * exponent) / 612 - 7.0 / 34)));
}

void ReadCpu(const JsonNode& cpu, Spec* spec) {
  if (!cpu.Has()) return;
  const uint64_t shares = cpu["shares"].Unsigned(262144);
  if (shares != 0) {
    Add(spec, "cpu", "cpu.weight", std::to_string(WeightOfShares(shares)),
        "linux.resources.cpu.shares");
  }
  const JsonNode idle = cpu["idle"];
  if (idle.Has()) {
    Add(spec, "cpu", "cpu.idle", std::to_string(idle.Integer(0, 1)), "linux.resources.cpu.idle");
  }
  const int64_t quota_us = cpu["quota"].Integer(-1, INT64_MAX);
  const uint64_t period_us = cpu["period"].Unsigned(1'000'000);
  if (quota_us != 0 || period_us != 0) {
    Add(spec, "cpu", "cpu.max",
        (quota_us > 0 ? std::to_string(quota_us) : "max") + " " +
            std::to_string(period_us != 0 ? period_us : 100'000),
        "linux.resources.cpu.quota");
  }
  for (const char* key : {"realtimeRuntime", "realtimePeriod"}) RefuseSet(cpu[key]);
  const JsonNode burst = cpu["burst"];
  if (burst.Has()) {
    Add(spec, "cpu", "cpu.max.burst", std::to_string(burst.Unsigned(INT64_MAX)),
        "linux.resources.cpu.burst");
  }
  if (const char* cpus = cpu["cpus"].String(); cpus[0] != '\0') {
    Add(spec, "cpuset", "cpuset.cpus", cpus, "linux.resources.cpu.cpus");
  }
  if (const char* mems = cpu["mems"].String(); mems[0] != '\0') {
    Add(spec, "cpuset", "cpuset.mems", mems, "linux.resources.cpu.mems");
  }
}

std::string DeviceNumber(const JsonNode& entry) {
  return std::to_string(entry["major"].Unsigned(4095)) + ":" +
         std::to_string(entry["minor"].Unsigned(0xFFFFF));
}

void ReadThrottle(const JsonNode& list, const char* key, const char* path, Spec* spec) {
  if (!list.Has()) return;
  list.ForEach([&](const JsonNode& entry) {
    const std::string device = DeviceNumber(entry);
    const uint64_t rate = entry["rate"].Unsigned(INT64_MAX);
    Add(spec, "io", "io.max",
        device + " " + key + "=" + (rate == 0 ? "max" : std::to_string(rate)), path);
  });
}

void ReadWeightDevices(const JsonNode& list, Spec* spec) {
  if (!list.Has()) return;
  list.ForEach([&](const JsonNode& entry) {
    RefuseSet(entry["leafWeight"]);
    const JsonNode weight = entry["weight"];
    const uint64_t value = weight.Unsigned(1000);
    if (value == 0) return;
    if (value < 10) return weight.Refuse("is below 10");
    AddIoWeight(DeviceNumber(entry), value, "linux.resources.blockIO.weightDevice", spec);
  });
}

void ReadBlockIo(const JsonNode& io, Spec* spec) {
  if (!io.Has()) return;
  const JsonNode weight = io["weight"];
  const uint64_t value = weight.Unsigned(1000);
  if (weight.Has() && value != 0) {
    if (value < 10) return weight.Refuse("is below 10");
    AddIoWeight("default", value, "linux.resources.blockIO.weight", spec);
  }
  RefuseSet(io["leafWeight"]);
  ReadWeightDevices(io["weightDevice"], spec);
  ReadThrottle(io["throttleReadBpsDevice"], "rbps", "linux.resources.blockIO", spec);
  ReadThrottle(io["throttleWriteBpsDevice"], "wbps", "linux.resources.blockIO", spec);
  ReadThrottle(io["throttleReadIOPSDevice"], "riops", "linux.resources.blockIO", spec);
  ReadThrottle(io["throttleWriteIOPSDevice"], "wiops", "linux.resources.blockIO", spec);
}

void ReadHugepages(const JsonNode& list, Spec* spec) {
  if (!list.Has()) return;
  list.ForEach([&](const JsonNode& entry) {
    const JsonNode size = entry["pageSize"];
    const char* name = size.RequiredString();
    if (strspn(name, "0123456789KMGB") != strlen(name)) {
      return size.Refuse("is not a page size such as 2MB");
    }
    Add(spec, "hugetlb", std::string("hugetlb.") + name + ".max",
        std::to_string(entry["limit"].Unsigned(INT64_MAX)), "linux.resources.hugepageLimits");
  });
}

void ReadRdma(const JsonNode& rdma, Spec* spec) {
  if (!rdma.Has() || rdma.value()->IsObject() == false) return;
  for (const auto& member : rdma.value()->GetObject()) {
    const JsonNode device = rdma[member.name.GetString()];
    std::string value = member.name.GetString();
    const JsonNode handles = device["hcaHandles"];
    const JsonNode objects = device["hcaObjects"];
    if (handles.Has()) value += " hca_handle=" + std::to_string(handles.Unsigned(UINT32_MAX));
    if (objects.Has()) value += " hca_object=" + std::to_string(objects.Unsigned(UINT32_MAX));
    Add(spec, "rdma", "rdma.max", value, "linux.resources.rdma");
  }
}

void ReadDeviceRules(const JsonNode& list, Spec* spec) {
  if (!list.Has()) return;
  list.ForEach([&](const JsonNode& entry) {
    DeviceRule rule;
    rule.allow = entry["allow"].Bool();
    const JsonNode type = entry["type"];
    const char* name = type.String("a");
    rule.type = name[0] == '\0' ? 'a' : name[0];
    if (strlen(name) > 1 || strchr("abcu", rule.type) == nullptr) {
      return type.Refuse("is none of \"a\", \"b\" and \"c\"");
    }
    if (rule.type == 'u') rule.type = 'c';
    rule.major = entry["major"].Integer(-1, 4095, -1);
    rule.minor = entry["minor"].Integer(-1, 0xFFFFF, -1);
    const JsonNode access = entry["access"];
    const char* letters = access.String("rwm");
    if (letters[0] == '\0') letters = "rwm";
    if (strspn(letters, "rwm") != strlen(letters)) access.Refuse("has letters other than rwm");
    rule.read = strchr(letters, 'r') != nullptr;
    rule.write = strchr(letters, 'w') != nullptr;
    rule.mknod = strchr(letters, 'm') != nullptr;
    spec->device_rules.push_back(rule);
  });
}

// Files of the cgroup core that are limits. The others act on processes ("cgroup.procs" with
// "0" would move the caller) or belong to the runtime.
bool IsCoreLimit(const char* file) {
  return strcmp(file, "cgroup.max.depth") == 0 || strcmp(file, "cgroup.max.descendants") == 0 ||
         strcmp(file, "cgroup.pressure") == 0;
}

// A file of the cgroup itself, never a path: no "/", and a controller before the dot.
void ReadUnified(const JsonNode& unified, Spec* spec) {
  for (const SysctlSpec& entry : unified.StringMap()) {
    const char* dot = strchr(entry.key, '.');
    if (dot == nullptr || dot == entry.key || strchr(entry.key, '/') != nullptr) {
      return unified[entry.key].Refuse("is not the name of a cgroup file");
    }
    if (strncmp(entry.key, "cgroup.", 7) == 0 && !IsCoreLimit(entry.key)) {
      return unified[entry.key].Refuse("is not a limit");
    }
    Add(spec, "", entry.key, entry.value, "linux.resources.unified");
  }
}

}  // namespace

void ReadResources(const JsonNode& node, Spec* spec) {
  if (!node.Has()) return;
  ReadDeviceRules(node["devices"], spec);
  ReadMemory(node["memory"], spec);
  ReadCpu(node["cpu"], spec);
  const JsonNode pids = node["pids"];
  const JsonNode limit = pids["limit"];
  if (limit.Has()) {
    const int64_t count = limit.Integer(INT64_MIN, INT64_MAX);
    if (count != 0) {
      Add(spec, "pids", "pids.max", OrMax(count), "linux.resources.pids.limit");
    }
  }
  ReadBlockIo(node["blockIO"], spec);
  ReadHugepages(node["hugepageLimits"], spec);
  ReadRdma(node["rdma"], spec);
  RefuseSet(node["network"]["classID"]);
  ReadUnified(node["unified"], spec);
}

}  // namespace runtime
