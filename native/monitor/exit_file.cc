#include "monitor/exit_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "sys/files.h"
#include "sys/unique_fd.h"

namespace monitor {
namespace {

int64_t ToUs(const timeval& time) { return time.tv_sec * 1'000'000LL + time.tv_usec; }

}  // namespace

void PutExitRecord(JsonWriter* writer, const std::string& container_id, const ExitStatus& status) {
  writer->StartObject();
  writer->Key("version");
  writer->Int(1);
  writer->Key("containerId");
  PutString(writer, container_id);
  writer->Key("exitCode");
  writer->Int(status.exit_code);
  writer->Key("signal");
  writer->Int(status.signal);
  writer->Key("oomKilled");
  writer->Bool(status.oom_killed);
  writer->Key("startedAtNs");
  PutNs(writer, status.started_at_ns);
  writer->Key("finishedAtNs");
  PutNs(writer, status.finished_at_ns);
  writer->Key("rusage");
  writer->StartObject();
  writer->Key("userUs");
  writer->Int64(ToUs(status.usage.ru_utime));
  writer->Key("systemUs");
  writer->Int64(ToUs(status.usage.ru_stime));
  writer->Key("maxRssKib");
  writer->Int64(status.usage.ru_maxrss);
  writer->EndObject();
  writer->EndObject();
}

sys::Result<void> WriteExitFile(const std::string& path, const std::string& container_id, const ExitStatus& status) {
  rapidjson::StringBuffer text;
  JsonWriter writer(text);
  PutExitRecord(&writer, container_id, status);
  const std::string temporary = path + ".tmp";
  const sys::UniqueFd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file.valid()) return sys::FailedWithErrno("open");
  const auto written = sys::WriteAll(file.get(), std::string_view(text.GetString(), text.GetSize()));
  if (!written) return written.failure();
  if (::rename(temporary.c_str(), path.c_str()) < 0) return sys::FailedWithErrno("rename");
  return {};
}

}  // namespace monitor
