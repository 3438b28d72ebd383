#include "layer/archive_replay.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <string.h>
#include <unistd.h>

#include <algorithm>

#include "layer/content_hash.h"
#include "sys/files.h"

namespace layer {
namespace {

constexpr size_t kPieceBytes = 256 << 10;

}  // namespace

bool ArchiveReplay::Fails(const std::string& path, std::string message, Problem* problem) {
  if (on_problem && on_problem({path, message})) return true;
  *problem = {kDamaged, std::move(message), nullptr, 0, path};
  return false;
}

bool ArchiveReplay::Emit(const uint8_t* bytes, size_t size) {
  sum_.Update(bytes, size);
  bytes_ += size;
  if (on_bytes && !on_bytes(bytes, size)) stopped_ = true;
  return !stopped_;
}

bool ArchiveReplay::EmitZeros(uint64_t size, ContentHash* sum) {
  static constexpr uint8_t kZeros[4096] = {};
  while (size > 0) {
    const size_t part = static_cast<size_t>(std::min<uint64_t>(size, sizeof kZeros));
    sum->Update(kZeros, part);
    if (!Emit(kZeros, part)) return false;
    size -= part;
  }
  return true;
}

// A file may be taken the place of long after its body: the moves must be known first.
bool ArchiveReplay::FindMoves(Problem* problem) {
  RecordReader reader;
  if (!reader.Open(directory_, problem)) return false;
  RecordOp op;
  for (uint64_t at = 0; reader.Next(&op, problem); at++) {
    if (op.kind == 'M') moves_[op.path].emplace_back(at, op.number);
  }
  return !problem->set();
}

// Where a path of the operation number `at` is now: below fs, or below replaced.
std::string ArchiveReplay::PlaceOf(const std::string& path, uint64_t at, bool* is_replaced) const {
  uint64_t first = UINT64_MAX;
  std::string place = path;
  *is_replaced = false;
  if (moves_.empty()) return place;
  for (size_t end = path.find('/');; end = path.find('/', end + 1)) {
    const size_t size = end == std::string::npos ? path.size() : end;
    if (const auto found = moves_.find(path.substr(0, size)); found != moves_.end()) {
      for (const auto& [when, name] : found->second) {
        if (when < at || when >= first) continue;
        first = when;
        place = std::to_string(name) + path.substr(size);
        *is_replaced = true;
      }
    }
    if (end == std::string::npos) return place;
  }
}

bool ArchiveReplay::EmitSegment(int fd, const std::string& path, const Segment& segment, ContentHash* sum,
                                Problem* problem) {
  for (uint64_t done = 0; done < segment.size;) {
    const size_t wanted = static_cast<size_t>(std::min<uint64_t>(buffer_.size(), segment.size - done));
    const ssize_t got = ::pread(fd, buffer_.data(), wanted, static_cast<off_t>(segment.offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) {
      const std::string message = got < 0 ? std::string("cannot be read: ") + strerrorname_np(errno) : "is too short";
      return Fails(path, message, problem) && EmitZeros(segment.size - done, sum);
    }
    sum->Update(buffer_.data(), static_cast<size_t>(got));
    if (!Emit(buffer_.data(), static_cast<size_t>(got))) return false;
    done += static_cast<uint64_t>(got);
  }
  return true;
}

bool ArchiveReplay::CheckHoles(int fd, const RecordOp& op, Problem* problem) {
  uint64_t at = 0;
  for (size_t i = 0; i <= op.segments.size(); i++) {
    const uint64_t end = i < op.segments.size() ? op.segments[i].offset : UINT64_MAX;
    while (at < end) {
      const size_t wanted = static_cast<size_t>(std::min<uint64_t>(buffer_.size(), end - at));
      const ssize_t got = ::pread(fd, buffer_.data(), wanted, static_cast<off_t>(at));
      if (got <= 0) break;
      if (std::any_of(buffer_.begin(), buffer_.begin() + got, [](uint8_t byte) { return byte != 0; })) {
        return Fails(op.path, "has bytes where a hole was", problem);
      }
      at += static_cast<uint64_t>(got);
    }
    if (i < op.segments.size()) at = op.segments[i].offset + op.segments[i].size;
  }
  return true;
}

bool ArchiveReplay::EmitBody(const RecordOp& op, uint64_t at, uint64_t* hash, Problem* problem) {
  ContentHash sum;
  bool is_replaced = false;
  const std::string place = PlaceOf(op.path, at, &is_replaced);
  const int root = is_replaced ? replaced_.get() : tree_.get();
  auto file = sys::openat2(root, place.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0,
                           RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  struct stat st {};
  if (!file || ::fstat(file->get(), &st) < 0 || !S_ISREG(st.st_mode)) {
    const std::string why = file ? "is no file any more" : std::string("cannot be opened: ") + strerrorname_np(file.failure().error);
    return Fails(op.path, why, problem) && EmitZeros(op.number, &sum);
  }
  if (past_cache) ::posix_fadvise(file->get(), 0, 0, POSIX_FADV_DONTNEED);
  const std::vector<Segment> whole{{0, op.number}};
  for (const Segment& segment : op.segments.empty() ? whole : op.segments) {
    if (!EmitSegment(file->get(), op.path, segment, &sum, problem)) return false;
  }
  *hash = sum.Finish();
  if (check_holes && !op.segments.empty() && !CheckHoles(file->get(), op, problem)) return false;
  if (past_cache) ::posix_fadvise(file->get(), 0, 0, POSIX_FADV_DONTNEED);
  return true;
}

bool ArchiveReplay::Run(ReplayFacts* facts, Problem* problem) {
  buffer_.resize(kPieceBytes);
  auto tree = sys::open_at(directory_, kTreeName, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!tree) {
    *problem = {kDamaged, std::string("the tree cannot be opened: ") + strerrorname_np(tree.failure().error), nullptr, 0, ""};
    return false;
  }
  tree_ = std::move(*tree);
  if (auto replaced = sys::open_at(directory_, kReplacedName, O_RDONLY | O_DIRECTORY | O_NOFOLLOW); replaced) {
    replaced_ = std::move(*replaced);
  }
  if (!FindMoves(problem)) return false;
  RecordReader reader;
  if (!reader.Open(directory_, problem)) return false;
  RecordOp op;
  for (uint64_t at = 0; reader.Next(&op, problem); at++) {
    uint64_t hash = 0;
    if (op.kind == 'L') Emit(reinterpret_cast<const uint8_t*>(op.text.data()), op.text.size());
    if (op.kind == 'B' && !EmitBody(op, at, &hash, problem) && !stopped_) return false;
    if (stopped_) {
      *problem = {kSystem, "hand the archive on", "write", errno, ""};
      return false;
    }
    if (on_op) on_op(op, hash);
  }
  facts->diff_id = sum_.Finish();
  facts->record_digest = reader.digest();
  facts->bytes = bytes_;
  return !problem->set();
}

}  // namespace layer
