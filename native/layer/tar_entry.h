// One entry of a layer's archive, with every extension already folded in. Names are raw bytes.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

namespace layer {

enum class EntryType { kFile, kHardLink, kSymlink, kCharDevice, kBlockDevice, kDirectory, kFifo };

struct Xattr {
  std::string name;
  std::string value;  // raw bytes
};

// A run of bytes of a sparse file that the archive holds; the rest is a hole.
struct Segment {
  uint64_t offset;
  uint64_t size;
};

struct Entry {
  EntryType type = EntryType::kFile;
  std::string path;
  std::string link;  // of hard and symbolic links, as written
  uint32_t mode = 0;  // 07777
  uint32_t uid = 0, gid = 0;
  int64_t mtime_s = 0;
  uint32_t mtime_ns = 0;
  uint64_t stored_bytes = 0;  // of the body in the archive, less the map of a pax 1.0 sparse file
  uint64_t file_bytes = 0;    // of the file once written
  uint32_t device_major = 0, device_minor = 0;
  std::vector<Xattr> xattrs;
  bool is_sparse = false;
  std::vector<Segment> segments;  // ascending, apart; only where is_sparse
};

}  // namespace layer
