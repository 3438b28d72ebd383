// update: new limits for a container that exists, from options or from a resources document.
#include <fcntl.h>
#include <rapidjson/document.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <stdlib.h>
#include <string.h>

#include "oci/commands.h"
#include "oci/options.h"
#include "oci/record.h"
#include "runtime/describe_report.h"
#include "runtime/limits.h"
#include "runtime/spec.h"
#include "sys/files.h"

namespace oci {
namespace {

constexpr size_t kMaxResourcesBytes = 1 << 20;

enum class Kind { kNumber, kText };

// runc's options, and where each stands in linux.resources.
struct ResourceOption {
  const char *option, *object, *key;
  Kind kind;
};
constexpr ResourceOption kOptions[] = {
    {"blkio-weight", "blockIO", "weight", Kind::kNumber},
    {"cpu-period", "cpu", "period", Kind::kNumber},
    {"cpu-quota", "cpu", "quota", Kind::kNumber},
    {"cpu-burst", "cpu", "burst", Kind::kNumber},
    {"cpu-share", "cpu", "shares", Kind::kNumber},
    {"cpu-idle", "cpu", "idle", Kind::kNumber},
    {"cpu-rt-period", "cpu", "realtimePeriod", Kind::kNumber},
    {"cpu-rt-runtime", "cpu", "realtimeRuntime", Kind::kNumber},
    {"cpuset-cpus", "cpu", "cpus", Kind::kText},
    {"cpuset-mems", "cpu", "mems", Kind::kText},
    {"memory", "memory", "limit", Kind::kNumber},
    {"memory-reservation", "memory", "reservation", Kind::kNumber},
    {"memory-swap", "memory", "swap", Kind::kNumber},
    {"kernel-memory", "memory", "kernel", Kind::kNumber},
    {"kernel-memory-tcp", "memory", "kernelTCP", Kind::kNumber},
    {"pids-limit", "pids", "limit", Kind::kNumber},
};

using Json = rapidjson::Document;

rapidjson::Value Text(Json* json, const std::string& text) {
  return rapidjson::Value(text.c_str(), static_cast<rapidjson::SizeType>(text.size()),
                          json->GetAllocator());
}

// "67108864", "64m", "-1": a number with a unit of bytes, as runc takes for memory.
bool ParseNumber(const std::string& text, int64_t* value) {
  char* end = nullptr;
  *value = strtoll(text.c_str(), &end, 10);
  if (text.empty() || end == text.c_str()) return false;
  static constexpr const char kUnits[] = "kmgt";
  if (*end == '\0') return true;
  const char* unit = strchr(kUnits, *end | 0x20);
  if (unit == nullptr || *unit == '\0' || *value < 0) return false;
  const int shift = 10 * static_cast<int>(unit - kUnits + 1);
  if (*value > (INT64_MAX >> shift)) return false;
  *value <<= shift;
  end++;
  if ((*end | 0x20) == 'b') end++;
  return *end == '\0';
}

bool FromOptions(const Options& options, Json* resources, std::string* problem) {
  resources->SetObject();
  auto& allocator = resources->GetAllocator();
  for (const ResourceOption& entry : kOptions) {
    if (!options.Has(entry.option)) continue;
    const std::string text = options.Value(entry.option);
    rapidjson::Value value;
    int64_t number = 0;
    if (entry.kind == Kind::kText) {
      value = Text(resources, text);
    } else if (ParseNumber(text, &number)) {
      value.SetInt64(number);
    } else {
      *problem = std::string("--") + entry.option + " \"" + text + "\" is not a number";
      return false;
    }
    if (!resources->HasMember(entry.object)) {
      resources->AddMember(rapidjson::StringRef(entry.object),
                           rapidjson::Value(rapidjson::kObjectType), allocator);
    }
    (*resources)[entry.object].AddMember(rapidjson::StringRef(entry.key), value, allocator);
  }
  return true;
}

bool FromFile(const std::string& path, Json* resources, std::string* problem) {
  const bool is_stdin = path == "-";
  auto text = is_stdin ? sys::ReadAll(0, kMaxResourcesBytes)
                       : sys::ReadFileAt(AT_FDCWD, path.c_str(), kMaxResourcesBytes);
  if (!text) {
    *problem = "read \"" + path + "\": " + text.failure().op + ": " +
               runtime::ErrnoName(text.failure().error);
    return false;
  }
  resources->Parse<rapidjson::kParseIterativeFlag>(text->c_str(), text->size());
  if (!resources->HasParseError() && resources->IsObject()) return true;
  *problem = "\"" + path + "\" is not a JSON object";
  return false;
}

// The spec reader checks and translates: the resources stand in a spec that has nothing else.
bool ToLimits(const Json& resources, runtime::Spec* spec, std::string* problem) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  resources.Accept(writer);
  const std::string text = std::string("{\"ociVersion\":\"1.3.0\",\"root\":{\"path\":\"/\"},"
                                       "\"linux\":{\"resources\":") +
                           buffer.GetString() + "}}";
  runtime::SpecError error;
  if (runtime::ReadSpec(text, spec, &error)) return true;
  *problem = runtime::DescribeSpecError(error).message;
  return false;
}

}  // namespace

int CommandUpdate(const GlobalOptions& global, const Arguments& arguments) {
  std::vector<const char*> with_value = {"resources|r"};
  for (const ResourceOption& entry : kOptions) with_value.push_back(entry.option);
  Options options(std::move(with_value), {}, false);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  if (options.operands().size() != 1) return Complain(global, "expected one container id");
  const std::string& id = options.operands()[0];
  auto record = LoadRecord(global, id);
  if (!record) return Complain(global, "container \"" + id + "\" does not exist");
  const std::string status = StatusOf(global, *record);
  if (status == "stopped") return Complain(global, "update container \"" + id + "\": it is stopped");
  Json resources;
  const bool is_read = options.Has("resources")
                           ? FromFile(options.Value("resources"), &resources, &problem)
                           : FromOptions(options, &resources, &problem);
  runtime::Spec spec;
  if (!is_read || !ToLimits(resources, &spec, &problem)) return Complain(global, problem);
  auto cgroup = sys::open_at(AT_FDCWD, record->cgroup.c_str(), O_PATH | O_DIRECTORY);
  if (!cgroup) {
    return Complain(global, "open cgroup \"" + record->cgroup + "\": " + cgroup.failure().op +
                                ": " + runtime::ErrnoName(cgroup.failure().error));
  }
  runtime::Problem failure;
  if (!runtime::WriteLimits(spec.resources, cgroup->get(), &failure)) {
    return Complain(global, failure.message);
  }
  return 0;
}

}  // namespace oci
