// SHA-256 over a stream, as `sha256:<hex>`.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

namespace layer {

class Sha256 {
 public:
  Sha256();
  void Update(const uint8_t* bytes, size_t size);
  // Ends the stream; nothing may follow.
  std::string Finish();

 private:
  alignas(16) unsigned char state_[128];  // SHA256_CTX, kept out of the header
};

}  // namespace layer
