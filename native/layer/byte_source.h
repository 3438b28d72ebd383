// A stream of bytes that is pulled in views, and the one way in which reading one can fail.
//
// The reader of tar archives knows nothing of files, threads or compression: it pulls from
// a ByteSource. Tests and fuzzers give it one over memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>

namespace layer {

// What went wrong, in the words of the result line. `code` is permanent; `message` is not.
struct Problem {
  const char* code = nullptr;  // literal; nullptr: nothing is wrong
  std::string message;
  const char* syscall = nullptr;
  int error = 0;
  std::string entry;  // name in the archive as raw bytes, or ""

  bool set() const { return code != nullptr; }
};

// Codes of the result line.
inline constexpr char kCorrupt[] = "LAYER_CORRUPT";          // not what the format allows
inline constexpr char kTruncated[] = "LAYER_TRUNCATED";      // the stream ended too early
inline constexpr char kRefused[] = "LAYER_REFUSED";          // legal, but nothing that an image needs
inline constexpr char kUnsupported[] = "LAYER_UNSUPPORTED";  // a format that this program does not read
inline constexpr char kLimit[] = "LAYER_TOO_LARGE";          // a limit of the command line
inline constexpr char kMismatch[] = "DIGEST_MISMATCH";       // not the bytes that were asked for
inline constexpr char kSystem[] = "LAYER_SYSTEM";            // the kernel refused; syscall and errno say what

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Points at the next bytes; they stay valid until the next call. A size of 0 is the end.
  // False: `problem` says why.
  virtual bool Next(const uint8_t** bytes, size_t* size, Problem* problem) = 0;
};

// A limit is reached when it is exceeded: a stream of exactly max_bytes is fine.
struct Limits {
  uint64_t max_bytes = 64ull << 30;       // of the uncompressed stream, and of all file sizes together
  uint64_t max_entries = 4'000'000;
  uint32_t max_pax_bytes = 1u << 20;      // of one entry's extended header
  uint32_t max_path_bytes = 4095;         // PATH_MAX less the NUL
  uint32_t max_name_bytes = 255;          // NAME_MAX
  uint32_t max_xattrs = 1024;             // of one entry
  uint32_t max_xattr_bytes = 65536;       // XATTR_SIZE_MAX, one value
  uint32_t max_sparse_segments = 1u << 20;  // of one file
};

}  // namespace layer
