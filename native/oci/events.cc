// events: what a container uses, and that it ran out of memory, one JSON object a line in the
// form of runc: {"type":"stats","id":…,"data":{…}} and {"type":"oom","id":…}.
//
// A figure whose controller the host does not have is left out, never made up.
#include <fcntl.h>
#include <poll.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "oci/commands.h"
#include "oci/options.h"
#include "oci/record.h"
#include "sys/files.h"
#include "sys/process.h"

namespace oci {
namespace {

constexpr size_t kMaxFileBytes = 64 << 10;
constexpr int64_t kDefaultIntervalMs = 5000;

using Writer = rapidjson::Writer<rapidjson::StringBuffer>;

bool ReadNumber(const std::string& cgroup, const char* file, uint64_t* value) {
  auto text = sys::ReadFileAt(AT_FDCWD, (cgroup + "/" + file).c_str(), kMaxFileBytes);
  if (!text || text->empty()) return false;
  *value = text->rfind("max", 0) == 0 ? UINT64_MAX : strtoull(text->c_str(), nullptr, 10);
  return true;
}

// "key value" lines of cpu.stat, memory.stat, memory.events.
bool ReadKey(const std::string& cgroup, const char* file, const char* key, uint64_t* value) {
  auto text = sys::ReadFileAt(AT_FDCWD, (cgroup + "/" + file).c_str(), kMaxFileBytes);
  if (!text) return false;
  const std::string wanted = std::string(key) + " ";
  for (size_t at = 0; at < text->size(); at = text->find('\n', at) + 1) {
    if (text->compare(at, wanted.size(), wanted) == 0) {
      *value = strtoull(text->c_str() + at + wanted.size(), nullptr, 10);
      return true;
    }
    if (text->find('\n', at) == std::string::npos) return false;
  }
  return false;
}

void Number(Writer* writer, const char* key, uint64_t value) {
  writer->Key(key);
  writer->Uint64(value);
}

void WriteCpu(Writer* writer, const std::string& cgroup) {
  uint64_t usage_us = 0, user_us = 0, system_us = 0;
  if (!ReadKey(cgroup, "cpu.stat", "usage_usec", &usage_us)) return;
  (void)ReadKey(cgroup, "cpu.stat", "user_usec", &user_us);
  (void)ReadKey(cgroup, "cpu.stat", "system_usec", &system_us);
  writer->Key("cpu");
  writer->StartObject();
  writer->Key("usage");
  writer->StartObject();
  Number(writer, "total", usage_us * 1000);
  Number(writer, "kernel", system_us * 1000);
  Number(writer, "user", user_us * 1000);
  writer->EndObject();
  uint64_t periods = 0, throttled = 0, throttled_us = 0;
  if (ReadKey(cgroup, "cpu.stat", "nr_periods", &periods)) {
    (void)ReadKey(cgroup, "cpu.stat", "nr_throttled", &throttled);
    (void)ReadKey(cgroup, "cpu.stat", "throttled_usec", &throttled_us);
    writer->Key("throttling");
    writer->StartObject();
    Number(writer, "periods", periods);
    Number(writer, "throttledPeriods", throttled);
    Number(writer, "throttledTime", throttled_us * 1000);
    writer->EndObject();
  }
  writer->EndObject();
}

void WriteMemory(Writer* writer, const std::string& cgroup) {
  uint64_t usage = 0, limit = 0, file = 0;
  if (!ReadNumber(cgroup, "memory.current", &usage)) return;
  (void)ReadNumber(cgroup, "memory.max", &limit);
  (void)ReadKey(cgroup, "memory.stat", "file", &file);
  writer->Key("memory");
  writer->StartObject();
  Number(writer, "cache", file);
  writer->Key("usage");
  writer->StartObject();
  Number(writer, "limit", limit);
  Number(writer, "usage", usage);
  writer->EndObject();
  writer->EndObject();
}

void WritePids(Writer* writer, const std::string& cgroup) {
  uint64_t current = 0, limit = 0;
  if (!ReadNumber(cgroup, "pids.current", &current)) return;
  (void)ReadNumber(cgroup, "pids.max", &limit);
  writer->Key("pids");
  writer->StartObject();
  Number(writer, "current", current);
  if (limit != UINT64_MAX) Number(writer, "limit", limit);
  writer->EndObject();
}

void PrintEvent(const Record& record, bool is_stats) {
  rapidjson::StringBuffer buffer;
  Writer writer(buffer);
  writer.StartObject();
  writer.Key("type");
  writer.String(is_stats ? "stats" : "oom");
  writer.Key("id");
  writer.String(record.id.c_str());
  if (is_stats) {
    writer.Key("data");
    writer.StartObject();
    WriteCpu(&writer, record.cgroup);
    WriteMemory(&writer, record.cgroup);
    WritePids(&writer, record.cgroup);
    writer.EndObject();
  }
  writer.EndObject();
  ::puts(buffer.GetString());
  ::fflush(stdout);
}

// "5s", "500ms", "1m": Go's durations, as far as they make sense here.
bool ParseInterval(const std::string& text, int64_t* ms) {
  char* end = nullptr;
  const long long value = strtoll(text.c_str(), &end, 10);
  if (end == text.c_str() || value <= 0 || value > 1'000'000) return false;
  const std::string unit = end;
  if (unit == "ms") return *ms = value, true;
  if (unit == "s") return *ms = value * 1000, true;
  if (unit == "m") return *ms = value * 60'000, true;
  return false;
}

// Until the first process ends; the kernel counts what was killed for lack of memory.
void Follow(const Record& record, int pidfd, int64_t interval_ms) {
  uint64_t oom_kills = 0;
  (void)ReadKey(record.cgroup, "memory.events", "oom_kill", &oom_kills);
  for (;;) {
    PrintEvent(record, true);
    struct pollfd ended = {pidfd, POLLIN, 0};
    const int ready = ::poll(&ended, 1, static_cast<int>(interval_ms));
    uint64_t kills = oom_kills;
    (void)ReadKey(record.cgroup, "memory.events", "oom_kill", &kills);
    if (kills > oom_kills) PrintEvent(record, false);
    oom_kills = kills;
    if (ready > 0) return;
  }
}

}  // namespace

int CommandEvents(const GlobalOptions& global, const Arguments& arguments) {
  Options options({"interval"}, {"stats"}, false);
  std::string problem;
  if (!options.Parse(arguments, &problem)) return Complain(global, problem);
  if (options.operands().size() != 1) return Complain(global, "expected one container id");
  int64_t interval_ms = kDefaultIntervalMs;
  if (options.Has("interval") && !ParseInterval(options.Value("interval"), &interval_ms)) {
    return Complain(global, "--interval \"" + options.Value("interval") + "\" is not a duration");
  }
  const std::string& id = options.operands()[0];
  auto record = LoadRecord(global, id);
  if (!record) return Complain(global, "container \"" + id + "\" does not exist");
  auto pidfd = sys::pidfd_open(record->pid);
  if (!pidfd || strcmp(StatusOf(global, *record), "stopped") == 0) {
    return Complain(global, "events of container \"" + id + "\": it is stopped");
  }
  if (options.Has("stats")) {
    PrintEvent(*record, true);
  } else {
    Follow(*record, pidfd->get(), interval_ms);
  }
  return 0;
}

}  // namespace oci
