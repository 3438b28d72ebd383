#include "oci/record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <rapidjson/document.h>
#include <rapidjson/prettywriter.h>
#include <rapidjson/stringbuffer.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "runtime/spec.h"
#include "sys/files.h"

namespace oci {
namespace {

constexpr size_t kMaxRecordBytes = 64 << 10;

std::string Member(const rapidjson::Document& json, const char* key) {
  const auto member = json.FindMember(key);
  return member != json.MemberEnd() && member->value.IsString() ? member->value.GetString() : "";
}

uint64_t Number(const rapidjson::Document& json, const char* key) {
  const auto member = json.FindMember(key);
  return member != json.MemberEnd() && member->value.IsUint64() ? member->value.GetUint64() : 0;
}

bool IsFrozen(const std::string& cgroup) {
  if (cgroup.empty()) return false;
  auto text = sys::ReadFileAt(AT_FDCWD, (cgroup + "/cgroup.freeze").c_str(), 64);
  return text.ok() && (*text)[0] == '1';
}

}  // namespace

bool IsValidId(const std::string& id) {
  if (id.empty() || id.size() > 255 || id == "." || id == "..") return false;
  return std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           c == '_' || c == '+' || c == '-' || c == '.';
  });
}

std::string ContainerDirectory(const GlobalOptions& global, const std::string& id) {
  return global.root + "/" + id;
}

sys::Result<sys::UniqueFd> MakeContainerDirectory(const GlobalOptions& global,
                                                  const std::string& id) {
  const std::string path = ContainerDirectory(global, id);
  if (::mkdir(path.c_str(), 0700) < 0) {
    if (errno != ENOENT) return sys::FailedWithErrno("mkdir");
    for (size_t slash = global.root.find('/', 1);; slash = global.root.find('/', slash + 1)) {
      const std::string part = global.root.substr(0, slash);
      if (::mkdir(part.c_str(), 0700) < 0 && errno != EEXIST) return sys::FailedWithErrno("mkdir");
      if (slash == std::string::npos) break;
    }
    if (::mkdir(path.c_str(), 0700) < 0) return sys::FailedWithErrno("mkdir");
  }
  return sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
}

void RemoveContainerDirectory(const GlobalOptions& global, const std::string& id) {
  const std::string path = ContainerDirectory(global, id);
  if (DIR* directory = ::opendir(path.c_str()); directory != nullptr) {
    while (const struct dirent* entry = ::readdir(directory)) {
      if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
        ::unlinkat(::dirfd(directory), entry->d_name, 0);
      }
    }
    ::closedir(directory);
  }
  ::rmdir(path.c_str());
}

sys::Result<void> SaveRecord(int directory, const Record& record) {
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  writer.StartObject();
  writer.Key("version");
  writer.Uint(1);
  writer.Key("id");
  writer.String(record.id.c_str());
  writer.Key("bundle");
  writer.String(record.bundle.c_str());
  writer.Key("cgroup");
  writer.String(record.cgroup.c_str());
  writer.Key("madeCgroup");
  writer.Uint(record.made_cgroup ? 1 : 0);
  writer.Key("created");
  writer.String(record.created.c_str());
  writer.Key("pid");
  writer.Uint64(static_cast<uint64_t>(record.pid));
  writer.Key("startTicks");
  writer.Uint64(record.start_ticks);
  writer.Key("rdtGroups");
  writer.StartArray();
  for (const std::string& group : record.rdt_groups) writer.String(group.c_str());
  writer.EndArray();
  writer.EndObject();
  return sys::WriteAtomically(directory, "record.json", {buffer.GetString(), buffer.GetSize()},
                              0600, false);
}

sys::Result<Record> LoadRecord(const GlobalOptions& global, const std::string& id) {
  if (!IsValidId(id)) return sys::Failure{"open", ENOENT};
  const std::string directory = ContainerDirectory(global, id);
  struct stat status;
  if (::stat(directory.c_str(), &status) < 0) return sys::FailedWithErrno("stat");
  auto text = sys::ReadFileAt(AT_FDCWD, (directory + "/record.json").c_str(), kMaxRecordBytes);
  if (!text) return sys::Failure{"read", EBADMSG};
  rapidjson::Document json;
  json.Parse<rapidjson::kParseIterativeFlag>(text->c_str(), text->size());
  if (json.HasParseError() || !json.IsObject() || Member(json, "id") != id) {
    return sys::Failure{"read", EBADMSG};
  }
  Record record;
  record.id = id;
  record.bundle = Member(json, "bundle");
  record.cgroup = Member(json, "cgroup");
  record.created = Member(json, "created");
  record.pid = static_cast<pid_t>(Number(json, "pid"));
  record.start_ticks = Number(json, "startTicks");
  record.made_cgroup = Number(json, "madeCgroup") != 0;
  if (auto groups = json.FindMember("rdtGroups"); groups != json.MemberEnd() && groups->value.IsArray()) {
    for (const auto& group : groups->value.GetArray()) {
      if (group.IsString()) record.rdt_groups.push_back(group.GetString());
    }
  }
  return record;
}

std::vector<std::string> ListIds(const GlobalOptions& global) {
  std::vector<std::string> ids;
  DIR* directory = ::opendir(global.root.c_str());
  if (directory == nullptr) return ids;
  while (const struct dirent* entry = ::readdir(directory)) {
    if (IsValidId(entry->d_name)) ids.push_back(entry->d_name);
  }
  ::closedir(directory);
  std::sort(ids.begin(), ids.end());
  return ids;
}

unsigned long long StartTicks(pid_t pid) {
  if (pid <= 0) return 0;
  const std::string path = "/proc/" + std::to_string(pid) + "/stat";
  auto text = sys::ReadFileAt(AT_FDCWD, path.c_str(), 4096);
  if (!text) return 0;
  // The name may hold anything, so the fields are counted after its last parenthesis.
  const char* at = strrchr(text->c_str(), ')');
  if (at == nullptr || at[1] == '\0' || at[2] == 'Z' || at[2] == 'X') return 0;
  at += 2;
  for (int field = 3; field < 22; field++) {
    at = strchr(at, ' ');
    if (at == nullptr) return 0;
    at++;
  }
  return strtoull(at, nullptr, 10);
}

const char* StatusOf(const GlobalOptions& global, const Record& record) {
  const unsigned long long ticks = StartTicks(record.pid);
  if (ticks == 0 || ticks != record.start_ticks) return "stopped";
  const std::string socket = ContainerDirectory(global, record.id) + "/start.sock";
  if (::access(socket.c_str(), F_OK) == 0) return "created";
  return IsFrozen(record.cgroup) ? "paused" : "running";
}

std::string StateDocument(const GlobalOptions& global, const Record& record, bool with_spec) {
  const char* status = StatusOf(global, record);
  runtime::Spec spec;
  runtime::SpecError error;
  auto text = sys::ReadFileAt(AT_FDCWD, (record.bundle + "/config.json").c_str(),
                              runtime::kMaxSpecBytes);
  const bool has_spec = with_spec && text && runtime::ReadSpec(std::move(*text), &spec, &error);
  rapidjson::StringBuffer buffer;
  rapidjson::PrettyWriter<rapidjson::StringBuffer> writer(buffer);
  writer.SetIndent(' ', 2);
  writer.StartObject();
  writer.Key("ociVersion");
  writer.String("1.3.0");
  writer.Key("id");
  writer.String(record.id.c_str());
  writer.Key("pid");
  writer.Int(strcmp(status, "stopped") == 0 ? 0 : record.pid);
  writer.Key("status");
  writer.String(status);
  writer.Key("bundle");
  writer.String(record.bundle.c_str());
  if (has_spec) {
    const std::string rootfs = spec.root_path[0] == '/' ? std::string(spec.root_path)
                                                        : record.bundle + "/" + spec.root_path;
    writer.Key("rootfs");
    writer.String(rootfs.c_str());
  }
  writer.Key("created");
  writer.String(record.created.c_str());
  if (has_spec && !spec.annotations.empty()) {
    writer.Key("annotations");
    writer.StartObject();
    for (const auto& annotation : spec.annotations) {
      writer.Key(annotation.key);
      writer.String(annotation.value);
    }
    writer.EndObject();
  }
  writer.EndObject();
  return buffer.GetString();
}

}  // namespace oci
