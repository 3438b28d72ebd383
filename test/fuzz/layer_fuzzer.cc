// libFuzzer over what reads a layer's bytes: decompression and the archive's reader, with small
// limits. The first byte says in which pieces the stream comes; the rest is the stream.
//
// Invariants besides those of the sanitizers: bodies are as long as their entries say, sparse
// segments are ascending and inside of their file, and every refusal has a code.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "layer/decompress.h"
#include "layer/tar_reader.h"

namespace {

void Require(bool holds) {
  if (!holds) abort();
}

// Decompresses as it is asked, as LayerStream does without its thread.
class InflatingSource final : public layer::ByteSource {
 public:
  InflatingSource(const uint8_t* bytes, size_t size, size_t piece)
      : in_(bytes), left_(size), piece_(piece), inflate_(layer::DecompressorFor(bytes, size)), out_(4096) {}

  bool Next(const uint8_t** bytes, size_t* size, layer::Problem* problem) override {
    *size = 0;
    for (;;) {
      const size_t given = std::min(piece_, left_);
      size_t in_size = given;
      if (!inflate_->Step(&in_, &in_size, out_.data(), out_.size(), size, problem)) {
        Require(problem->set());
        return false;
      }
      Require(in_size <= given && *size <= out_.size());
      left_ -= given - in_size;
      total_ += *size;
      if (*size > 0 || left_ == 0) break;
      if (in_size == given) break;  // no progress: the stream's end for this purpose
    }
    // A small input may be a very large stream.
    if (total_ > kMaxBytes) *size = 0;
    *bytes = out_.data();
    return true;
  }

 private:
  static constexpr uint64_t kMaxBytes = 8 << 20;
  const uint8_t* in_;
  size_t left_;
  const size_t piece_;
  std::unique_ptr<layer::Decompressor> inflate_;
  std::vector<uint8_t> out_;
  uint64_t total_ = 0;
};

void CheckEntry(const layer::Entry& entry, const layer::Limits& limits) {
  Require(entry.xattrs.size() <= limits.max_xattrs);
  Require(entry.path.find('\0') == std::string::npos && entry.link.find('\0') == std::string::npos);
  Require(entry.mode <= 07777 && entry.mtime_ns < 1'000'000'000);
  uint64_t end = 0, total = 0;
  for (const layer::Segment& segment : entry.segments) {
    Require(segment.offset >= end && segment.size <= entry.file_bytes - segment.offset);
    end = segment.offset + segment.size;
    total += segment.size;
  }
  Require(!entry.is_sparse || total == entry.stored_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 1) return 0;
  layer::Limits limits;
  limits.max_bytes = 4 << 20;
  limits.max_entries = 1000;
  limits.max_sparse_segments = 1000;
  InflatingSource source(data + 1, size - 1, data[0] == 0 ? size : data[0]);
  layer::TarReader reader(&source, &limits);
  layer::Problem problem;
  for (;;) {
    layer::Entry entry;
    const layer::TarReader::Step step = reader.Next(&entry, &problem);
    Require((step == layer::TarReader::Step::kError) == problem.set());
    if (step != layer::TarReader::Step::kEntry) return 0;
    CheckEntry(entry, limits);
    uint64_t body = 0;
    for (;;) {
      const uint8_t* bytes = nullptr;
      size_t part = 0;
      if (!reader.Body(&bytes, &part, &problem)) return 0;
      if (part == 0) break;
      body += part;
    }
    Require(body == entry.stored_bytes);
  }
}
