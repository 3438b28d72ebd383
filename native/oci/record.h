// What minke-oci remembers of a container: <root>/<id>/record.json, beside start.sock, which
// exists while the container is created and not started. A directory without a readable record
// is a half-made container: it can be deleted, and is listed as stopped.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "oci/commands.h"
#include "sys/result.h"
#include "sys/unique_fd.h"

namespace oci {

struct Record {
  std::string id, bundle, cgroup, created;
  pid_t pid = 0;
  unsigned long long start_ticks = 0;  // of the pid, so that a reused pid is not taken for it
  bool made_cgroup = false;
  std::vector<std::string> rdt_groups;  // that are removed with the container
};

// runc's rule: letters, digits, "_", "+", "-", "."; not "." or ".."; at most 1024.
bool IsValidId(const std::string& id);

std::string ContainerDirectory(const GlobalOptions& global, const std::string& id);

// Makes <root> (0700) and <root>/<id>. EEXIST where the id is taken.
sys::Result<sys::UniqueFd> MakeContainerDirectory(const GlobalOptions& global,
                                                  const std::string& id);
void RemoveContainerDirectory(const GlobalOptions& global, const std::string& id);

sys::Result<void> SaveRecord(int directory, const Record& record);
// ENOENT where there is no such container; EBADMSG where its record cannot be read.
sys::Result<Record> LoadRecord(const GlobalOptions& global, const std::string& id);
std::vector<std::string> ListIds(const GlobalOptions& global);

// Start time of a process in clock ticks since boot (proc_pid_stat(5), field 22); 0 where there
// is no such process or it is a zombie.
unsigned long long StartTicks(pid_t pid);

// "created", "running", "paused" or "stopped".
const char* StatusOf(const GlobalOptions& global, const Record& record);

// The state document of runtime-spec runtime.md, as the state and list commands print it.
std::string StateDocument(const GlobalOptions& global, const Record& record, bool with_spec);

}  // namespace oci
