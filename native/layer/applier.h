// Writes the entries of a layer into a directory, in the form that overlayfs wants as a lower layer.
//
// Nothing outside of the directory is read or written, whatever the archive says: every
// parent is resolved with openat2 inside it (RESOLVE_IN_ROOT|RESOLVE_NO_MAGICLINKS) and every
// act is by that descriptor and one name. Whiteouts become char devices 0:0, opaque
// directories get trusted.overlay.opaque=y (kernel overlayfs.rst, "whiteouts and opaque directories").
//
// The layer stands alone: parents that the archive does not name are made 0755 root, not
// copied from layers below, which may not be there yet.
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include <string>
#include <vector>

#include "layer/byte_source.h"
#include "layer/tar_entry.h"
#include "layer/tar_reader.h"
#include "layer/tar_record.h"
#include "sys/unique_fd.h"

namespace layer {

struct ApplyFacts {
  uint64_t entries = 0;
  // Attributes that this file system cannot hold (ENOTSUP), or that the kernel does not allow
  // on that kind of file: left out, and counted so that somebody can say so.
  uint64_t unsupported_xattrs = 0;
};

class Applier {
 public:
  // root is borrowed: a directory opened for reading, of which the caller is the only user.
  // The process must be root and its umask 0.
  // record is borrowed, or nullptr: it is told what became of every entry.
  Applier(int root, const Limits* limits, RecordWriter* record);

  // Applies every entry until the archive ends.
  bool Run(TarReader* reader, ApplyFacts* facts, Problem* problem);

 private:
  struct Directory {
    std::string path;  // without links, below the root
    dev_t device;
    ino_t inode;
    timespec mtime;
    std::string default_acl;  // set last: children must not inherit it
  };

  bool Apply(TarReader* reader, const Entry& entry, Problem* problem);
  bool ApplyRoot(const Entry& entry, Problem* problem);
  bool ApplyWhiteout(const std::string& name, Problem* problem);
  bool Create(TarReader* reader, const Entry& entry, Problem* problem);
  bool CreateFile(TarReader* reader, const Entry& entry, Problem* problem);
  bool CreateDirectory(const Entry& entry, Problem* problem);
  bool CreateHardLink(const Entry& entry, Problem* problem);
  bool CreateNode(const Entry& entry, Problem* problem);
  bool WriteBody(TarReader* reader, int fd, const Entry& entry, uint64_t* hash, Problem* problem);
  bool SetMetadataAt(const Entry& entry, Problem* problem);
  bool SetMetadataOf(int fd, const Entry& entry, Problem* problem);
  bool SetXattr(int fd, const Xattr& xattr, Problem* problem);
  bool RememberDirectory(int fd, const Entry& entry, Problem* problem);
  bool FinishDirectories(Problem* problem);
  bool RemoveExisting(Problem* problem);
  bool MakeOpaque(int fd, Problem* problem);

  static std::string KernelPath(int directory);
  std::string PathOf(int directory, const std::string& written) const;
  std::string StoredPath() const;
  void RecordOnly(char kind, std::string path);
  bool RecordEntry(const Entry& entry, uint64_t hash, Problem* problem, bool is_root = false);
  bool RecordTimes(int fd, const Directory& directory, Problem* problem);
  bool MoveAside(Problem* problem);

  bool SplitPath(const std::string& path, std::vector<std::string>* parts, Problem* problem);
  bool OpenParent(const std::vector<std::string>& parts, Problem* problem);
  bool Refuse(Problem* problem, std::string message);
  bool FailedCall(Problem* problem, const char* syscall, int error);

  const int root_;
  const Limits* const limits_;
  RecordWriter* const record_;
  std::string root_path_;  // as the kernel names it
  ApplyFacts* facts_ = nullptr;
  std::vector<Directory> directories_;

  // The entry at hand.
  std::string entry_path_;
  std::string name_;            // last component
  sys::UniqueFd parent_;        // of name_; kept from entry to entry while the parent's path stays
  std::string parent_path_;     // what parent_ was opened by
  std::string parent_stored_;   // where that is, without links: "" or "a/b/"
  bool replaces_whiteout_ = false;
};

}  // namespace layer
