// The exit file: how a container ended, on disk before anybody is told (ExitRecord in
// src/state/container.ts). A daemon that was not there reads it later.
#pragma once

#include <stdint.h>
#include <sys/resource.h>

#include <string>

#include "monitor/json.h"
#include "sys/result.h"

namespace monitor {

struct ExitStatus {
  int exit_code = 0;  // 128 + signal where a signal ended it
  int signal = 0;     // 0: none
  bool oom_killed = false;
  int64_t started_at_ns = 0;
  int64_t finished_at_ns = 0;
  struct rusage usage {};
};

// The ExitRecord as one JSON object.
void PutExitRecord(JsonWriter* writer, const std::string& container_id, const ExitStatus& status);

// Writes the record to `path` by a temporary file beside it and rename(2), mode 0600. Not synced:
// records of this class are worth nothing after a reboot.
sys::Result<void> WriteExitFile(const std::string& path, const std::string& container_id, const ExitStatus& status);

}  // namespace monitor
