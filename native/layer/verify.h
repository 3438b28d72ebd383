// Compares a stored layer with the record of its archive: the tree, entry by entry, and the
// archive's exact bytes.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "layer/archive_replay.h"

namespace layer {

struct Damage {
  const char* kind;  // "content", "metadata", "missing", "added", "record"
  std::string path;
  std::string message;
};

struct VerifyFacts {
  std::string diff_id;  // "" where the record cannot be read
  std::string record_digest;
  uint64_t bytes = 0;
  uint64_t entries = 0;  // compared
  uint64_t damage_count = 0;
  std::vector<Damage> damage;  // the first ones
};

// False only where the comparison itself could not be made. directory: as for ArchiveReplay.
bool VerifyLayer(int directory, VerifyFacts* facts, Problem* problem);

}  // namespace layer
