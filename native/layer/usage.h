// What a tree occupies, as du(1) counts it: allocated blocks, a file with several names once, and
// nothing of other file systems.
#pragma once

#include <stdint.h>

#include <string>
#include <vector>

#include "layer/byte_source.h"

namespace layer {

struct Usage {
  uint64_t bytes = 0;
  uint64_t inodes = 0;
};

struct NamedUsage {
  std::string name;
  bool is_directory = false;
  Usage usage;
};

struct TreeUsage {
  Usage own;  // of the directory itself
  std::vector<NamedUsage> children;
};

// Of a directory with all that is below it. `problem` has ENOENT where there is none.
bool SumTree(const std::string& path, Usage* usage, Problem* problem);

// What is removed meanwhile counts as nothing. Follows no link.
bool MeasureTree(const std::string& path, TreeUsage* usage, Problem* problem);

}  // namespace layer
