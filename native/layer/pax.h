// Records of a pax extended header (POSIX pax interchange format): `<length> <key>=<value>\n`.
#pragma once

#include <stdint.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "layer/byte_source.h"
#include "layer/tar_entry.h"

namespace layer {

// What an extended header says about the next entry. Unknown keys are skipped, as POSIX asks.
struct PaxFields {
  std::optional<std::string> path, link;
  std::optional<uint64_t> size, uid, gid;
  std::optional<int64_t> mtime_s;
  uint32_t mtime_ns = 0;
  std::vector<Xattr> xattrs;

  // GNU sparse, formats 0.0, 0.1 and 1.0.
  std::optional<std::string> sparse_name;
  std::optional<uint64_t> sparse_real_size, sparse_major, sparse_minor;
  std::vector<uint64_t> sparse_map;  // offset, size, offset, size …
  bool has_sparse_map = false;
};

// Parses all records. False: problem says what is wrong with them.
bool ParsePax(std::string_view records, const Limits& limits, PaxFields* fields, Problem* problem);

// Decimal digits only; nullopt for anything else or beyond 64 bits.
std::optional<uint64_t> ParseDecimal(std::string_view text);

}  // namespace layer
