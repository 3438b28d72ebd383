// From the bytes of the wire to the bytes of the tar archive: gzip, zstd or plain, told by
// the first bytes, whatever a media type said.
//
// Memory is bounded: zstd windows above 128 MiB are refused, as the zstd program does.
#pragma once

#include <memory>

#include "layer/byte_source.h"

namespace layer {

class Decompressor {
 public:
  virtual ~Decompressor() = default;
  // Takes from *in and fills `out`; advances *in by what it consumed. False: problem says why.
  virtual bool Step(const uint8_t** in, size_t* in_size, uint8_t* out, size_t out_size,
                    size_t* produced, Problem* problem) = 0;
  // True where the stream may end here.
  virtual bool AtEnd() const = 0;
  virtual const char* name() const = 0;  // "gzip", "zstd", "none"
};

// Decides by the first bytes of the stream; `size` may be less than four only at its end.
std::unique_ptr<Decompressor> DecompressorFor(const uint8_t* head, size_t size);

}  // namespace layer
