// What is kept of a layer's archive so that its exact bytes can be made again from the unpacked
// tree, and so that the tree can be compared with what was unpacked: every byte that is in no
// file (headers, padding, extended headers), in order, and beside each entry what became of it.
//
// `tar-record.zst`, one zstd frame of operations; beside it `fs`, the tree, and `replaced`, the
// files that a later entry of the same archive took the place of. Numbers are LEB128, text is a
// number and its bytes:
//
//   L bytes                          bytes of the archive
//   B path size n {offset size}      here is the body of that file: all of it, or n segments
//   F path facts                     an entry that stands there from now on
//   H path target                    a hard link to what stands at target
//   W path | O path                  a whiteout; an opaque directory
//   M path n | D path                moved to replaced/n; removed: it and all below it
//   T path mtime n {name value}      a directory's time and late attributes, once all is written
//   E                                the end; without it the record is cut short
//
// Paths are below `fs`, without links, "" is its root. Every one is the result of a resolution.
#pragma once

#include <stdint.h>
#include <sys/stat.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "layer/byte_source.h"
#include "layer/digest.h"
#include "layer/tar_entry.h"
#include "layer/tar_reader.h"
#include "sys/unique_fd.h"

namespace layer {

inline constexpr char kRecordName[] = "tar-record.zst";
inline constexpr char kTreeName[] = "fs";
inline constexpr char kReplacedName[] = "replaced";
inline constexpr char kDamaged[] = "LAYER_DAMAGED";  // the stored layer is not what was unpacked

// As lstat(2) and listxattr(2) showed it when it was made.
struct StoredFacts {
  uint32_t mode = 0;  // with the type
  uint32_t uid = 0, gid = 0;
  int64_t mtime_s = 0;
  uint32_t mtime_ns = 0;
  uint64_t size = 0;    // of regular files
  uint64_t device = 0;  // st_rdev of device nodes
  uint64_t hash = 0;    // ContentHash of a regular file's body as the archive holds it
  std::string link;     // of symbolic links
  std::vector<Xattr> xattrs;
};

struct RecordOp {
  char kind = 0;
  std::string text;    // of L
  std::string path;    // of all but L and E
  std::string target;  // of H
  uint64_t number = 0;  // size of B, n of M
  std::vector<Segment> segments;
  StoredFacts facts;  // of F and T
};

class RecordWriter final : public ArchiveTap {
 public:
  RecordWriter();
  ~RecordWriter() override;

  // Makes the record in the directory; borrowed, it must outlive this.
  bool Open(int directory, Problem* problem);
  void Bytes(const uint8_t* bytes, size_t size) override;
  // What is in `op` as its kind says; not for L.
  void Add(const RecordOp& op);
  // False as soon as a write has failed; problem says why.
  bool Check(Problem* problem) const;
  bool Finish(Problem* problem);
  // Gives a name in `replaced` and its directory; -1 where that cannot be made (problem).
  int ReplacedDirectory(std::string* name, Problem* problem);

  uint64_t replaced() const { return replaced_count_; }
  // After Finish(): of the file.
  const std::string& digest() const { return digest_; }
  uint64_t bytes() const { return bytes_; }

 private:
  void Put(std::string_view text);
  void FlushLiteral();
  void Compress(bool at_end);

  struct Stream;
  std::unique_ptr<Stream> stream_;
  int directory_ = -1;
  sys::UniqueFd file_, replaced_;
  uint64_t replaced_count_ = 0;
  std::string literal_, pending_;
  Sha256 sum_;
  std::string digest_;
  uint64_t bytes_ = 0;
  Problem problem_;
};

class RecordReader {
 public:
  RecordReader();
  ~RecordReader();

  bool Open(int directory, Problem* problem);
  // False at the end and at a failure, which problem tells.
  bool Next(RecordOp* op, Problem* problem);
  // Of the file, once Next() has said the end.
  const std::string& digest() const { return digest_; }

 private:
  bool Fill(size_t wanted, Problem* problem);
  bool Number(uint64_t* value, Problem* problem);
  bool Text(std::string* text, Problem* problem);
  bool Facts(char kind, StoredFacts* facts, Problem* problem);
  bool Xattrs(std::vector<Xattr>* xattrs, Problem* problem);
  bool Segments(std::vector<Segment>* segments, Problem* problem);
  bool Ended(Problem* problem);

  struct Stream;
  std::unique_ptr<Stream> stream_;
  sys::UniqueFd file_;
  std::string plain_;
  size_t at_ = 0;
  Sha256 sum_;
  std::string digest_;
};

}  // namespace layer
