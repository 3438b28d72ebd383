// Makes the bytes of a layer's archive again from its record and its tree.
#pragma once

#include <stdint.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "layer/tar_record.h"
#include "sys/unique_fd.h"

namespace layer {

// A file whose bytes cannot be had as the record wants them.
struct BodyProblem {
  std::string path;
  std::string message;
};

struct ReplayFacts {
  std::string diff_id;        // of what was made
  std::string record_digest;  // of the record's file
  uint64_t bytes = 0;
};

class ArchiveReplay {
 public:
  // directory holds the record, the tree and what was replaced; borrowed.
  explicit ArchiveReplay(int directory) : directory_(directory) {}

  // Gets the bytes in order; false stops the replay.
  std::function<bool(const uint8_t*, size_t)> on_bytes;
  // Called where a body is damaged; true: go on with zeros in its place. Without it that is a failure.
  std::function<bool(const BodyProblem&)> on_problem;
  // Sees each operation, and of a body the hash of its bytes; for who checks more than the bytes.
  std::function<void(const RecordOp&, uint64_t body_hash)> on_op;
  // Also read what lies between the segments of sparse files, which must be zeros.
  bool check_holes = false;
  // Read from the disk, not from the page cache, and leave nothing of it there.
  bool past_cache = false;

  bool Run(ReplayFacts* facts, Problem* problem);

 private:
  bool FindMoves(Problem* problem);
  bool EmitBody(const RecordOp& op, uint64_t at, uint64_t* hash, Problem* problem);
  bool EmitSegment(int fd, const std::string& path, const Segment& segment, class ContentHash* sum, Problem* problem);
  bool CheckHoles(int fd, const RecordOp& op, Problem* problem);
  bool EmitZeros(uint64_t size, class ContentHash* sum);
  bool Emit(const uint8_t* bytes, size_t size);
  bool Fails(const std::string& path, std::string message, Problem* problem);
  std::string PlaceOf(const std::string& path, uint64_t at, bool* is_replaced) const;

  const int directory_;
  sys::UniqueFd tree_, replaced_;
  // By path: when it was moved aside (the operation's number in the record), and to which name.
  std::map<std::string, std::vector<std::pair<uint64_t, uint64_t>>> moves_;
  std::vector<uint8_t> buffer_;
  Sha256 sum_;
  uint64_t bytes_ = 0;
  bool stopped_ = false;
};

}  // namespace layer
