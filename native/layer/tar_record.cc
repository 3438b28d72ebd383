#include "layer/tar_record.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "sys/files.h"

namespace layer {
namespace {

constexpr size_t kLiteralBytes = 64 << 10;
constexpr size_t kMaxTextBytes = 4 << 20;  // an attribute is 64 KiB, a literal kLiteralBytes
constexpr size_t kMaxCount = 1 << 20;

void PutNumber(std::string* to, uint64_t value) {
  for (; value >= 0x80; value >>= 7) *to += static_cast<char>(value | 0x80);
  *to += static_cast<char>(value);
}

void PutSigned(std::string* to, int64_t value) {
  PutNumber(to, static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63));
}

void PutText(std::string* to, std::string_view text) {
  PutNumber(to, text.size());
  *to += text;
}

void PutXattrs(std::string* to, const std::vector<Xattr>& xattrs) {
  PutNumber(to, xattrs.size());
  for (const Xattr& xattr : xattrs) {
    PutText(to, xattr.name);
    PutText(to, xattr.value);
  }
}

void PutFacts(std::string* to, const StoredFacts& facts) {
  for (const uint64_t number : {uint64_t{facts.mode}, uint64_t{facts.uid}, uint64_t{facts.gid}}) PutNumber(to, number);
  PutSigned(to, facts.mtime_s);
  for (const uint64_t number : {uint64_t{facts.mtime_ns}, facts.size, facts.device, facts.hash}) PutNumber(to, number);
  PutText(to, facts.link);
  PutXattrs(to, facts.xattrs);
}

bool Damaged(Problem* problem, std::string message) {
  *problem = {kDamaged, "record of the archive: " + std::move(message), nullptr, 0, ""};
  return false;
}

}  // namespace

struct RecordWriter::Stream {
  ZSTD_CStream* zstd = ZSTD_createCStream();
  std::string out = std::string(ZSTD_CStreamOutSize(), '\0');
  ~Stream() { ZSTD_freeCStream(zstd); }
};

RecordWriter::RecordWriter() : stream_(std::make_unique<Stream>()) {
  ZSTD_CCtx_setParameter(stream_->zstd, ZSTD_c_compressionLevel, 3);
  ZSTD_CCtx_setParameter(stream_->zstd, ZSTD_c_checksumFlag, 1);
}
RecordWriter::~RecordWriter() = default;

bool RecordWriter::Open(int directory, Problem* problem) {
  directory_ = directory;
  auto file = sys::open_at(directory, kRecordName, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (!file) {
    *problem = {kSystem, "make the record of the archive", file.failure().op, file.failure().error, ""};
    return false;
  }
  file_ = std::move(*file);
  return true;
}

void RecordWriter::Bytes(const uint8_t* bytes, size_t size) {
  while (size > 0) {
    const size_t part = std::min(size, kLiteralBytes - literal_.size());
    literal_.append(reinterpret_cast<const char*>(bytes), part);
    bytes += part;
    size -= part;
    if (literal_.size() == kLiteralBytes) FlushLiteral();
  }
}

void RecordWriter::FlushLiteral() {
  if (literal_.empty()) return;
  std::string op = "L";
  PutText(&op, literal_);
  literal_.clear();
  Put(op);
}

void RecordWriter::Add(const RecordOp& op) {
  // Only bodies have a place in the archive's bytes; what became of an entry may stand before
  // or after its padding.
  if (op.kind == 'B') FlushLiteral();
  std::string text(1, op.kind);
  PutText(&text, op.path);
  if (op.kind == 'B') {
    PutNumber(&text, op.number);
    PutNumber(&text, op.segments.size());
    for (const Segment& segment : op.segments) {
      PutNumber(&text, segment.offset);
      PutNumber(&text, segment.size);
    }
  } else if (op.kind == 'F') {
    PutFacts(&text, op.facts);
  } else if (op.kind == 'H') {
    PutText(&text, op.target);
  } else if (op.kind == 'M') {
    PutNumber(&text, op.number);
  } else if (op.kind == 'T') {
    PutSigned(&text, op.facts.mtime_s);
    PutNumber(&text, op.facts.mtime_ns);
    PutXattrs(&text, op.facts.xattrs);
  }
  Put(text);
}

void RecordWriter::Put(std::string_view text) {
  pending_ += text;
  if (pending_.size() >= kLiteralBytes) Compress(false);
}

void RecordWriter::Compress(bool at_end) {
  if (problem_.set()) return;
  ZSTD_inBuffer in{pending_.data(), pending_.size(), 0};
  for (;;) {
    ZSTD_outBuffer out{stream_->out.data(), stream_->out.size(), 0};
    const size_t left = ZSTD_compressStream2(stream_->zstd, &out, &in, at_end ? ZSTD_e_end : ZSTD_e_continue);
    if (ZSTD_isError(left)) {
      problem_ = {kSystem, std::string("compress the record: ") + ZSTD_getErrorName(left), nullptr, 0, ""};
      return;
    }
    sum_.Update(static_cast<const uint8_t*>(out.dst), out.pos);
    bytes_ += out.pos;
    if (auto written = sys::WriteAll(file_.get(), {stream_->out.data(), out.pos}); !written) {
      problem_ = {kSystem, "write the record of the archive", written.failure().op, written.failure().error, ""};
      return;
    }
    if (at_end ? left == 0 : in.pos == in.size) break;
  }
  pending_.clear();
}

bool RecordWriter::Check(Problem* problem) const {
  if (problem_.set()) *problem = problem_;
  return !problem_.set();
}

bool RecordWriter::Finish(Problem* problem) {
  FlushLiteral();
  pending_ += 'E';
  Compress(true);
  digest_ = sum_.Finish();
  return Check(problem);
}

int RecordWriter::ReplacedDirectory(std::string* name, Problem* problem) {
  if (!replaced_.valid()) {
    if (::mkdirat(directory_, kReplacedName, 0700) < 0 && errno != EEXIST) {
      *problem = {kSystem, "make the directory of replaced files", "mkdirat", errno, ""};
      return -1;
    }
    auto opened = sys::open_at(directory_, kReplacedName, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!opened) {
      *problem = {kSystem, "open the directory of replaced files", opened.failure().op, opened.failure().error, ""};
      return -1;
    }
    replaced_ = std::move(*opened);
  }
  *name = std::to_string(replaced_count_++);
  return replaced_.get();
}

struct RecordReader::Stream {
  ZSTD_DStream* zstd = ZSTD_createDStream();
  std::string in = std::string(64 << 10, '\0');
  size_t size = 0, at = 0;
  bool frame_ended = false, file_ended = false;
  ~Stream() { ZSTD_freeDStream(zstd); }
};

RecordReader::RecordReader() : stream_(std::make_unique<Stream>()) {}
RecordReader::~RecordReader() = default;

bool RecordReader::Open(int directory, Problem* problem) {
  auto file = sys::open_at(directory, kRecordName, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  if (!file) return Damaged(problem, std::string("it cannot be opened: ") + strerrorname_np(file.failure().error));
  file_ = std::move(*file);
  ::posix_fadvise(file_.get(), 0, 0, POSIX_FADV_DONTNEED);
  return true;
}

// At least `wanted` decompressed bytes from at_ on.
bool RecordReader::Fill(size_t wanted, Problem* problem) {
  if (plain_.size() - at_ >= wanted) return true;
  plain_.erase(0, at_);
  at_ = 0;
  while (plain_.size() < wanted) {
    if (stream_->at == stream_->size && !stream_->file_ended) {
      const ssize_t got = ::read(file_.get(), stream_->in.data(), stream_->in.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return Damaged(problem, std::string("it cannot be read: ") + strerrorname_np(errno));
      stream_->file_ended = got == 0;
      stream_->size = static_cast<size_t>(got);
      stream_->at = 0;
      sum_.Update(reinterpret_cast<const uint8_t*>(stream_->in.data()), stream_->size);
    }
    if (stream_->frame_ended || (stream_->file_ended && stream_->at == stream_->size)) {
      return Damaged(problem, "it ends too early");
    }
    ZSTD_inBuffer in{stream_->in.data(), stream_->size, stream_->at};
    const size_t before = plain_.size();
    plain_.resize(before + (128 << 10));
    ZSTD_outBuffer out{plain_.data() + before, plain_.size() - before, 0};
    const size_t hint = ZSTD_decompressStream(stream_->zstd, &out, &in);
    plain_.resize(before + out.pos);
    if (ZSTD_isError(hint)) return Damaged(problem, ZSTD_getErrorName(hint));
    stream_->at = in.pos;
    stream_->frame_ended = hint == 0;
  }
  return true;
}

bool RecordReader::Number(uint64_t* value, Problem* problem) {
  *value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (!Fill(1, problem)) return false;
    const auto byte = static_cast<uint8_t>(plain_[at_++]);
    *value |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return true;
  }
  return Damaged(problem, "a number beyond 64 bits");
}

bool RecordReader::Text(std::string* text, Problem* problem) {
  uint64_t size = 0;
  if (!Number(&size, problem)) return false;
  if (size > kMaxTextBytes) return Damaged(problem, "a text of " + std::to_string(size) + " bytes");
  if (!Fill(size, problem)) return false;
  text->assign(plain_, at_, size);
  at_ += size;
  return true;
}

bool RecordReader::Xattrs(std::vector<Xattr>* xattrs, Problem* problem) {
  uint64_t count = 0;
  if (!Number(&count, problem)) return false;
  if (count > kMaxCount) return Damaged(problem, "too many attributes");
  for (; count > 0; count--) {
    Xattr xattr;
    if (!Text(&xattr.name, problem) || !Text(&xattr.value, problem)) return false;
    xattrs->push_back(std::move(xattr));
  }
  return true;
}

bool RecordReader::Facts(char kind, StoredFacts* facts, Problem* problem) {
  uint64_t mode = 0, uid = 0, gid = 0, seconds = 0, ns = 0;
  if (kind == 'F' && (!Number(&mode, problem) || !Number(&uid, problem) || !Number(&gid, problem))) return false;
  if (!Number(&seconds, problem) || !Number(&ns, problem)) return false;
  facts->mode = static_cast<uint32_t>(mode);
  facts->uid = static_cast<uint32_t>(uid);
  facts->gid = static_cast<uint32_t>(gid);
  facts->mtime_s = static_cast<int64_t>(seconds >> 1 ^ (~(seconds & 1) + 1));
  facts->mtime_ns = static_cast<uint32_t>(ns);
  if (kind == 'F') {
    if (!Number(&facts->size, problem) || !Number(&facts->device, problem) || !Number(&facts->hash, problem)) return false;
    if (!Text(&facts->link, problem)) return false;
  }
  return Xattrs(&facts->xattrs, problem);
}

bool RecordReader::Segments(std::vector<Segment>* segments, Problem* problem) {
  uint64_t count = 0;
  if (!Number(&count, problem)) return false;
  if (count > kMaxCount) return Damaged(problem, "too many segments");
  for (; count > 0; count--) {
    Segment segment{};
    if (!Number(&segment.offset, problem) || !Number(&segment.size, problem)) return false;
    segments->push_back(segment);
  }
  return true;
}

// After E: nothing may follow, and the checksum of the frame must have been read.
bool RecordReader::Ended(Problem* problem) {
  Problem ignored;
  while (!stream_->frame_ended && at_ == plain_.size()) {
    if (!Fill(1, &ignored)) break;
  }
  if (!stream_->frame_ended || at_ != plain_.size()) return Damaged(problem, "it does not end where it says");
  for (;;) {
    if (stream_->at < stream_->size) return Damaged(problem, "bytes after its end");
    if (stream_->file_ended) break;
    const ssize_t got = ::read(file_.get(), stream_->in.data(), stream_->in.size());
    if (got < 0) return Damaged(problem, std::string("it cannot be read: ") + strerrorname_np(errno));
    stream_->at = 0;
    stream_->size = static_cast<size_t>(got);
    stream_->file_ended = got == 0;
  }
  digest_ = sum_.Finish();
  return false;
}

bool RecordReader::Next(RecordOp* op, Problem* problem) {
  *op = RecordOp();
  if (!Fill(1, problem)) return false;
  op->kind = plain_[at_++];
  switch (op->kind) {
    case 'E': return Ended(problem);
    case 'L': return Text(&op->text, problem);
    case 'B': return Text(&op->path, problem) && Number(&op->number, problem) && Segments(&op->segments, problem);
    case 'F':
    case 'T': return Text(&op->path, problem) && Facts(op->kind, &op->facts, problem);
    case 'H': return Text(&op->path, problem) && Text(&op->target, problem);
    case 'M': return Text(&op->path, problem) && Number(&op->number, problem);
    case 'W':
    case 'O':
    case 'D': return Text(&op->path, problem);
    default: return Damaged(problem, "an unknown operation");
  }
}

}  // namespace layer
