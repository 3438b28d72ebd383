// Standard input to standard output, packed or unpacked: for archives of images, where Node.js
// has no zstd.
#pragma once

#include <stdint.h>

namespace layer {

// Both return the exit code; failures are told on standard error.
int CompressStream();
// gzip, zstd or plain, told by the first bytes.
int DecompressStream(uint64_t max_bytes);

}  // namespace layer
