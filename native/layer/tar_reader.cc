#include "layer/tar_reader.h"

#include <string.h>

#include <algorithm>

namespace layer {
namespace {

uint64_t PaddingOf(uint64_t size) { return (kBlockBytes - size % kBlockBytes) % kBlockBytes; }

}  // namespace

bool TarReader::Fail(Problem* problem, const char* code, std::string message) {
  *problem = {code, "tar: " + std::move(message), nullptr, 0, path_};
  return false;
}

bool TarReader::Refill(Problem* problem) {
  if (view_size_ > 0 || source_ended_) return true;
  if (!source_->Next(&view_, &view_size_, problem)) return false;
  source_ended_ = view_size_ == 0;
  return true;
}

void TarReader::Consume(size_t size) {
  if (tap_ != nullptr) tap_->Bytes(view_, size);
  view_ += size;
  view_size_ -= size;
}

// *at_end: the source ended before the first byte. Ending in the middle is a failure.
bool TarReader::ReadExactly(uint8_t* to, size_t size, bool* at_end, Problem* problem) {
  *at_end = false;
  for (size_t got = 0; got < size;) {
    if (!Refill(problem)) return false;
    if (view_size_ == 0) {
      *at_end = got == 0;
      return got == 0 ? true : Fail(problem, kTruncated, "the archive ends inside of a block");
    }
    const size_t part = std::min(view_size_, size - got);
    memcpy(to + got, view_, part);
    Consume(part);
    got += part;
  }
  return true;
}

bool TarReader::ReadBlock(uint8_t* block, bool* at_end, Problem* problem) {
  return ReadExactly(block, kBlockBytes, at_end, problem);
}

// A body that extends the next header, with its padding.
bool TarReader::ReadMeta(uint64_t size, uint64_t cap, std::string* text, Problem* problem) {
  if (size > cap) return Fail(problem, kLimit, "extended header of " + std::to_string(size) + " bytes");
  text->resize(size);
  bool at_end = false;
  if (size > 0 && !ReadExactly(reinterpret_cast<uint8_t*>(text->data()), size, &at_end, problem)) return false;
  if (at_end) return Fail(problem, kTruncated, "the archive ends before an extended header");
  return Skip(PaddingOf(size), problem);
}

bool TarReader::Skip(uint64_t size, Problem* problem) {
  while (size > 0) {
    if (!Refill(problem)) return false;
    if (view_size_ == 0) return Fail(problem, kTruncated, "the archive ends inside of an entry");
    const size_t part = static_cast<size_t>(std::min<uint64_t>(view_size_, size));
    Consume(part);
    size -= part;
  }
  return true;
}

bool TarReader::Drain(Problem* problem) {
  do {
    Consume(view_size_);
    if (!Refill(problem)) return false;
  } while (view_size_ > 0);
  return true;
}

bool TarReader::Body(const uint8_t** bytes, size_t* size, Problem* problem) {
  *size = 0;
  if (body_left_ == 0) return true;
  if (!Refill(problem)) return false;
  if (view_size_ == 0) return Fail(problem, kTruncated, "the archive ends inside of an entry");
  *bytes = view_;
  *size = static_cast<size_t>(std::min<uint64_t>(view_size_, body_left_));
  view_ += *size;
  view_size_ -= *size;
  body_left_ -= *size;
  return true;
}

TarReader::Step TarReader::Next(Entry* entry, Problem* problem) {
  const uint64_t rest = body_left_ + padding_left_;
  body_left_ = padding_left_ = 0;
  if (!Skip(rest, problem)) return Step::kError;
  path_.clear();
  *entry = Entry();

  uint8_t block[kBlockBytes];
  PaxFields pax;
  bool at_end = false;
  if (!ReadHeaders(block, &pax, &at_end, problem)) return Step::kError;
  if (at_end) return Drain(problem) ? Step::kEnd : Step::kError;
  if (++entries_ > limits_->max_entries) {
    Fail(problem, kLimit, "more than " + std::to_string(limits_->max_entries) + " entries");
    return Step::kError;
  }
  if (!ApplyFields(block, pax, entry, problem)) return Step::kError;
  if (!ApplySparse(block, pax, entry, problem)) return Step::kError;
  file_bytes_total_ += entry->file_bytes;
  if (entry->file_bytes > limits_->max_bytes || file_bytes_total_ > limits_->max_bytes) {
    Fail(problem, kLimit, "files of more than " + std::to_string(limits_->max_bytes) + " bytes");
    return Step::kError;
  }
  return Step::kEntry;
}

// Reads up to and including the header of a real entry, gathering what extends it.
bool TarReader::ReadHeaders(uint8_t* block, PaxFields* pax, bool* at_end, Problem* problem) {
  std::optional<std::string> gnu_name, gnu_link;
  bool extended = false;
  for (;;) {
    if (!ReadBlock(block, at_end, problem)) return false;
    if (!*at_end && IsZeroBlock(block)) {
      // Two zero blocks end an archive; some writers leave out the second, or both.
      if (!ReadBlock(block, at_end, problem)) return false;
      if (!*at_end && !IsZeroBlock(block)) return Fail(problem, kCorrupt, "an entry after a zero block");
      *at_end = true;
    }
    if (*at_end) return extended ? Fail(problem, kTruncated, "the archive ends after an extended header") : true;
    if (!ChecksumHolds(block)) return Fail(problem, kCorrupt, "checksum of a header");
    const char flag = static_cast<char>(block[156]);
    if (flag != 'x' && flag != 'X' && flag != 'g' && flag != 'L' && flag != 'K') break;
    const auto size = ParseNumber(block + 124, 12);
    if (!size || *size < 0) return Fail(problem, kCorrupt, "size of an extended header");
    std::string text;
    if (!ReadMeta(static_cast<uint64_t>(*size), limits_->max_pax_bytes, &text, problem)) return false;
    PaxFields ignored;
    extended |= flag != 'g';
    if (flag == 'L') gnu_name = text.substr(0, text.find('\0'));
    else if (flag == 'K') gnu_link = text.substr(0, text.find('\0'));
    else if (!ParsePax(text, *limits_, flag == 'g' ? &ignored : pax, problem)) return false;
  }
  if (!pax->path) pax->path = std::move(gnu_name);
  if (!pax->link) pax->link = std::move(gnu_link);
  return true;
}

bool TarReader::ApplyFields(const uint8_t* block, const PaxFields& pax, Entry* entry, Problem* problem) {
  entry->path = pax.path ? *pax.path : HeaderName(block);
  if (pax.sparse_name) entry->path = *pax.sparse_name;
  path_ = entry->path;
  entry->link = pax.link ? *pax.link : ParseText(block + 157, 100);
  const auto mode = ParseNumber(block + 100, 8);
  const auto uid = pax.uid ? std::optional<int64_t>(*pax.uid) : ParseNumber(block + 108, 8);
  const auto gid = pax.gid ? std::optional<int64_t>(*pax.gid) : ParseNumber(block + 116, 8);
  const auto size = pax.size ? std::optional<int64_t>(*pax.size) : ParseNumber(block + 124, 12);
  const auto mtime = pax.mtime_s ? pax.mtime_s : ParseNumber(block + 136, 12);
  if (!mode || !uid || !gid || !size || !mtime || *mode < 0 || *size < 0) {
    return Fail(problem, kCorrupt, "number of a header");
  }
  // 2^32-1 means "leave it" to chown(2), so no file can have it.
  if (*uid < 0 || *gid < 0 || *uid >= UINT32_MAX || *gid >= UINT32_MAX) {
    return Fail(problem, kCorrupt, "owner beyond 32 bits");
  }
  entry->mode = static_cast<uint32_t>(*mode) & 07777;
  entry->uid = static_cast<uint32_t>(*uid);
  entry->gid = static_cast<uint32_t>(*gid);
  entry->mtime_s = *mtime;
  entry->mtime_ns = pax.mtime_s ? pax.mtime_ns : 0;
  entry->stored_bytes = static_cast<uint64_t>(*size);
  entry->xattrs = pax.xattrs;
  return ApplyType(block, entry, problem);
}

bool TarReader::ApplyType(const uint8_t* block, Entry* entry, Problem* problem) {
  switch (block[156]) {
    case '0': case 0: case '7': case 'S': entry->type = EntryType::kFile; break;
    case '1': entry->type = EntryType::kHardLink; break;
    case '2': entry->type = EntryType::kSymlink; break;
    case '3': entry->type = EntryType::kCharDevice; break;
    case '4': entry->type = EntryType::kBlockDevice; break;
    case '5': entry->type = EntryType::kDirectory; break;
    case '6': entry->type = EntryType::kFifo; break;
    default: return Fail(problem, kUnsupported, "entry of type " + std::to_string(block[156]));
  }
  // Archives older than ustar say "directory" by a trailing slash alone.
  if (block[156] == 0 && entry->path.ends_with('/')) entry->type = EntryType::kDirectory;
  if (entry->type != EntryType::kFile) entry->stored_bytes = 0;
  if (entry->type == EntryType::kCharDevice || entry->type == EntryType::kBlockDevice) {
    const auto major = ParseNumber(block + 329, 8);
    const auto minor = ParseNumber(block + 337, 8);
    // Linux: 12 bits of major, 20 of minor (include/linux/kdev_t.h).
    if (!major || !minor || *major < 0 || *minor < 0 || *major >= 1 << 12 || *minor >= 1 << 20) {
      return Fail(problem, kCorrupt, "device number");
    }
    entry->device_major = static_cast<uint32_t>(*major);
    entry->device_minor = static_cast<uint32_t>(*minor);
  }
  entry->file_bytes = entry->stored_bytes;
  body_left_ = entry->stored_bytes;
  padding_left_ = PaddingOf(entry->stored_bytes);
  return true;
}

bool TarReader::AddSegment(uint64_t offset, uint64_t size, Entry* entry, Problem* problem) {
  if (entry->segments.size() >= limits_->max_sparse_segments) {
    return Fail(problem, kLimit, "sparse map beyond the limit");
  }
  if (size > 0) entry->segments.push_back({offset, size});
  return true;
}

bool TarReader::ApplySparse(const uint8_t* block, const PaxFields& pax, Entry* entry, Problem* problem) {
  if (entry->type != EntryType::kFile) return true;
  if (block[156] == 'S') {
    if (!ReadGnuSparse(block, entry, problem)) return false;
  } else if (pax.sparse_major) {
    if (*pax.sparse_major != 1 || pax.sparse_minor.value_or(0) != 0 || !pax.sparse_real_size) {
      return Fail(problem, kUnsupported, "sparse format of that version");
    }
    entry->file_bytes = *pax.sparse_real_size;
    if (!ReadPaxSparseMap(entry, problem)) return false;
  } else if (pax.has_sparse_map) {
    if (!pax.sparse_real_size || pax.sparse_map.size() % 2 != 0) return Fail(problem, kCorrupt, "sparse map");
    entry->file_bytes = *pax.sparse_real_size;
    for (size_t i = 0; i < pax.sparse_map.size(); i += 2) {
      if (!AddSegment(pax.sparse_map[i], pax.sparse_map[i + 1], entry, problem)) return false;
    }
  } else {
    return true;
  }
  entry->is_sparse = true;
  return CheckSegments(*entry, problem);
}

// GNU's own header: 4 segments at 386, more in blocks of 21 while the flag says so.
bool TarReader::ReadGnuSparse(const uint8_t* block, Entry* entry, Problem* problem) {
  const auto real_size = ParseNumber(block + 483, 12);
  if (!real_size || *real_size < 0) return Fail(problem, kCorrupt, "size of a sparse file");
  uint8_t more[kBlockBytes];
  const uint8_t* at = block + 386;
  size_t count = 4;
  bool extended = block[482] != 0;
  for (;;) {
    for (size_t i = 0; i < count; i++, at += 24) {
      if (at[0] == 0) break;
      const auto offset = ParseNumber(at, 12), size = ParseNumber(at + 12, 12);
      if (!offset || !size || *offset < 0 || *size < 0) return Fail(problem, kCorrupt, "sparse map");
      if (!AddSegment(static_cast<uint64_t>(*offset), static_cast<uint64_t>(*size), entry, problem)) return false;
    }
    if (!extended) break;
    bool at_end = false;
    if (!ReadBlock(more, &at_end, problem)) return false;
    if (at_end) return Fail(problem, kTruncated, "the archive ends inside of a sparse map");
    at = more;
    count = 21;
    extended = more[504] != 0;
  }
  entry->file_bytes = static_cast<uint64_t>(*real_size);
  return true;
}

// Format 1.0: the body begins with decimal lines (count, then offset and size of each), padded to a block.
bool TarReader::ReadPaxSparseMap(Entry* entry, Problem* problem) {
  uint8_t block[kBlockBytes];
  size_t at = kBlockBytes;
  uint64_t wanted = 1, offset = 0;
  for (uint64_t line = 0; line < wanted; line++) {
    std::string digits;
    for (;;) {
      if (at == kBlockBytes) {
        bool at_end = false;
        if (body_left_ < kBlockBytes) return Fail(problem, kCorrupt, "sparse map longer than its file");
        if (!ReadBlock(block, &at_end, problem)) return false;
        if (at_end) return Fail(problem, kTruncated, "the archive ends inside of a sparse map");
        body_left_ -= kBlockBytes;
        at = 0;
      }
      const char next = static_cast<char>(block[at++]);
      if (next == '\n') break;
      if (digits.size() > 20) return Fail(problem, kCorrupt, "sparse map");
      digits += next;
    }
    const auto number = ParseDecimal(digits);
    if (!number) return Fail(problem, kCorrupt, "sparse map");
    if (line == 0) {
      if (*number > limits_->max_sparse_segments) return Fail(problem, kLimit, "sparse map beyond the limit");
      wanted = 1 + 2 * *number;
    } else if (line % 2 == 1) {
      offset = *number;
    } else if (!AddSegment(offset, *number, entry, problem)) {
      return false;
    }
  }
  entry->stored_bytes = body_left_;
  return true;
}

// The segments must be ascending, inside the file, and exactly what the body holds.
bool TarReader::CheckSegments(const Entry& entry, Problem* problem) {
  uint64_t end = 0, total = 0;
  for (const Segment& segment : entry.segments) {
    uint64_t next = 0;
    if (segment.offset < end || __builtin_add_overflow(segment.offset, segment.size, &next) || next > entry.file_bytes) {
      return Fail(problem, kCorrupt, "sparse map out of order or beyond the file");
    }
    end = next;
    total += segment.size;
  }
  return total == entry.stored_bytes ? true : Fail(problem, kCorrupt, "sparse map that does not fit its data");
}

}  // namespace layer
