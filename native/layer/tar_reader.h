// Reads a tar archive entry by entry from a stream: v7, ustar, GNU (long names, base-256,
// sparse) and pax (names, sizes, times in ns, raw xattrs, sparse 0.0 to 1.0).
//
// Where readers differ it follows Go's archive/tar, which made nearly every image: links,
// devices, directories and FIFOs have no body whatever their size field says, and global
// pax headers change nothing. What is not understood is refused, never guessed.
#pragma once

#include <stdint.h>

#include <string>

#include "layer/byte_source.h"
#include "layer/pax.h"
#include "layer/tar_entry.h"
#include "layer/tar_header.h"

namespace layer {

// Is given every byte of the archive, in order, that is not handed out by Body().
class ArchiveTap {
 public:
  virtual ~ArchiveTap() = default;
  virtual void Bytes(const uint8_t* bytes, size_t size) = 0;
};

class TarReader {
 public:
  enum class Step { kEntry, kEnd, kError };

  // Both are borrowed.
  TarReader(ByteSource* source, const Limits* limits) : source_(source), limits_(limits) {}

  // Borrowed; before the first Next().
  void set_tap(ArchiveTap* tap) { tap_ = tap; }

  // The next entry; what is left of the former's body is skipped. After kEnd the source is
  // read to its end, so that whoever hashes it has seen every byte.
  Step Next(Entry* entry, Problem* problem);

  // The next bytes of the entry's body, at most as many as are at hand; a size of 0 is its end.
  bool Body(const uint8_t** bytes, size_t* size, Problem* problem);

 private:
  bool Refill(Problem* problem);
  void Consume(size_t size);
  bool ReadExactly(uint8_t* to, size_t size, bool* at_end, Problem* problem);
  bool ReadBlock(uint8_t* block, bool* at_end, Problem* problem);
  bool ReadMeta(uint64_t size, uint64_t cap, std::string* text, Problem* problem);
  bool Skip(uint64_t size, Problem* problem);
  bool Drain(Problem* problem);
  bool ReadHeaders(uint8_t* block, PaxFields* pax, bool* at_end, Problem* problem);
  bool ApplyFields(const uint8_t* block, const PaxFields& pax, Entry* entry, Problem* problem);
  bool ApplyType(const uint8_t* block, Entry* entry, Problem* problem);
  bool ApplySparse(const uint8_t* block, const PaxFields& pax, Entry* entry, Problem* problem);
  bool ReadGnuSparse(const uint8_t* block, Entry* entry, Problem* problem);
  bool ReadPaxSparseMap(Entry* entry, Problem* problem);
  bool AddSegment(uint64_t offset, uint64_t size, Entry* entry, Problem* problem);
  bool CheckSegments(const Entry& entry, Problem* problem);
  bool Fail(Problem* problem, const char* code, std::string message);

  ByteSource* const source_;
  const Limits* const limits_;
  ArchiveTap* tap_ = nullptr;
  const uint8_t* view_ = nullptr;
  size_t view_size_ = 0;
  bool source_ended_ = false;
  uint64_t body_left_ = 0;
  uint64_t padding_left_ = 0;
  uint64_t file_bytes_total_ = 0;
  uint64_t entries_ = 0;
  std::string path_;  // of the entry being read, for messages
};

}  // namespace layer
