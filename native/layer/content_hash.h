// A fast hash of a file's bytes: XXH64 (xxhash.com, specification 0.1.1, seed 0).
//
// It tells which file of a layer is damaged; that none is, is told by SHA-256 over all of them.
// It is not meant against an attacker, who could change the record as well.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace layer {

class ContentHash {
 public:
  void Update(const uint8_t* bytes, size_t size);
  uint64_t Finish() const;

 private:
  uint64_t lanes_[4] = {0x60ea27eeadc0b5d6ull, 0xc2b2ae3d27d4eb4full, 0, 0x61c8864e7a143579ull};
  uint8_t rest_[32] = {};
  size_t rest_size_ = 0;
  uint64_t total_ = 0;
};

}  // namespace layer
