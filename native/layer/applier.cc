#include "layer/applier.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>

#include "layer/content_hash.h"
#include "layer/remove_tree.h"
#include "sys/files.h"

namespace layer {
namespace {

constexpr std::string_view kWhiteoutPrefix = ".wh.";
constexpr std::string_view kMetaPrefix = ".wh..wh.";
constexpr std::string_view kOpaqueMarker = ".wh..wh..opq";

bool IsWhiteoutDevice(const struct stat& st) { return S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0); }

}  // namespace

Applier::Applier(int root, const Limits* limits, RecordWriter* record)
    : root_(root), limits_(limits), record_(record) {
  root_path_ = KernelPath(root);
  if (!root_path_.empty()) root_path_ += '/';
}

bool Applier::Refuse(Problem* problem, std::string message) {
  *problem = {kRefused, std::move(message), nullptr, 0, entry_path_};
  return false;
}

bool Applier::FailedCall(Problem* problem, const char* syscall, int error) {
  *problem = {kSystem, "write an entry", syscall, error, entry_path_};
  return false;
}

bool Applier::Run(TarReader* reader, ApplyFacts* facts, Problem* problem) {
  facts_ = facts;
  for (;;) {
    Entry entry;
    switch (reader->Next(&entry, problem)) {
      case TarReader::Step::kError: return false;
      case TarReader::Step::kEnd:
        return FinishDirectories(problem) && (record_ == nullptr || record_->Finish(problem));
      case TarReader::Step::kEntry: break;
    }
    facts->entries++;
    entry_path_ = entry.path;
    if (!Apply(reader, entry, problem)) return false;
    if (record_ != nullptr && !record_->Check(problem)) return false;
  }
}

// Components without "" and "."; none at all is the layer's root. ".." is refused: no builder
// of images writes it, and readers disagree about what it means.
bool Applier::SplitPath(const std::string& path, std::vector<std::string>* parts, Problem* problem) {
  parts->clear();
  if (path.size() > limits_->max_path_bytes) return Refuse(problem, "path is too long");
  for (size_t at = 0; at < path.size();) {
    size_t end = path.find('/', at);
    if (end == std::string::npos) end = path.size();
    std::string part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return Refuse(problem, "path holds \"..\"");
    if (part.size() > limits_->max_name_bytes) return Refuse(problem, "name is too long");
    parts->push_back(std::move(part));
  }
  return true;
}

// Sets parent_ and name_. Parents that are missing are made.
bool Applier::OpenParent(const std::vector<std::string>& parts, Problem* problem) {
  name_ = parts.back();
  std::string path = "/";
  for (size_t i = 0; i + 1 < parts.size(); i++) path += parts[i] + "/";
  if (parent_.valid() && path == parent_path_) return true;
  parent_.reset();
  auto parent = sys::make_directories_in_root(root_, path.c_str(), 0755);
  if (!parent) {
    const int error = parent.failure().error;
    if (error == ENOTDIR) return Refuse(problem, "parent is not a directory");
    if (error == ENOENT) return Refuse(problem, "parent is a link to nothing in this layer");
    if (error == ELOOP) return Refuse(problem, "parent is a loop of links");
    return FailedCall(problem, parent.failure().op, error);
  }
  parent_ = std::move(*parent);
  parent_stored_ = PathOf(parent_.get(), path.substr(1));
  parent_path_ = std::move(path);
  return true;
}

bool Applier::Apply(TarReader* reader, const Entry& entry, Problem* problem) {
  for (const Xattr& xattr : entry.xattrs) {
    // Overlayfs reads these of its lower layers: an image could redirect into another directory.
    if (xattr.name.starts_with("trusted.overlay.") || xattr.name.starts_with("user.overlay.")) {
      return Refuse(problem, "extended attribute \"" + xattr.name + "\" belongs to overlayfs");
    }
  }
  std::vector<std::string> parts;
  if (!SplitPath(entry.path, &parts, problem)) return false;
  if (parts.empty()) return ApplyRoot(entry, problem);
  if (!OpenParent(parts, problem)) return false;
  if (name_.starts_with(kWhiteoutPrefix)) return ApplyWhiteout(name_, problem);
  return Create(reader, entry, problem);
}

bool Applier::ApplyRoot(const Entry& entry, Problem* problem) {
  if (entry.type != EntryType::kDirectory) return Refuse(problem, "the root is not a directory");
  return SetMetadataOf(root_, entry, problem) && RememberDirectory(root_, entry, problem) &&
         RecordEntry(entry, 0, problem, true);
}

// image-spec layer.md, "Whiteouts": they hide what lower layers hold, never what this one does.
bool Applier::ApplyWhiteout(const std::string& name, Problem* problem) {
  if (name == kOpaqueMarker) {
    auto dir = sys::openat2_in_root(root_, parent_path_.c_str(), O_RDONLY | O_DIRECTORY, 0);
    if (!dir) return FailedCall(problem, dir.failure().op, dir.failure().error);
    RecordOnly('O', parent_stored_.substr(0, parent_stored_.empty() ? 0 : parent_stored_.size() - 1));
    return MakeOpaque(dir->get(), problem);
  }
  // AUFS's own files (".wh..wh.plnk", ".wh..wh.aufs") mean nothing elsewhere.
  if (name.starts_with(kMetaPrefix)) return true;
  const std::string hidden = name.substr(kWhiteoutPrefix.size());
  if (hidden.empty() || hidden == "." || hidden == "..") return Refuse(problem, "whiteout of no name");
  struct stat st;
  if (::fstatat(parent_.get(), hidden.c_str(), &st, AT_SYMLINK_NOFOLLOW) == 0) {
    // A file of this layer already hides what is below; a directory would merge with it.
    if (!S_ISDIR(st.st_mode)) return true;
    auto dir = sys::open_at(parent_.get(), hidden.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!dir) return FailedCall(problem, dir.failure().op, dir.failure().error);
    RecordOnly('O', parent_stored_ + hidden);
    return MakeOpaque(dir->get(), problem);
  }
  if (errno != ENOENT) return FailedCall(problem, "newfstatat", errno);
  if (::mknodat(parent_.get(), hidden.c_str(), S_IFCHR, makedev(0, 0)) < 0) {
    return FailedCall(problem, "mknodat", errno);
  }
  RecordOnly('W', parent_stored_ + hidden);
  return true;
}

bool Applier::MakeOpaque(int fd, Problem* problem) {
  if (::fsetxattr(fd, "trusted.overlay.opaque", "y", 1, 0) < 0) return FailedCall(problem, "fsetxattr", errno);
  return true;
}

// Makes way for a new entry of that name; a whiteout that it replaces must still hide what is below.
bool Applier::RemoveExisting(Problem* problem) {
  struct stat st;
  replaces_whiteout_ = false;
  if (::fstatat(parent_.get(), name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
    return errno == ENOENT ? true : FailedCall(problem, "newfstatat", errno);
  }
  replaces_whiteout_ = IsWhiteoutDevice(st);
  // The archive cannot be made again without their bytes.
  if (record_ != nullptr && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode))) return MoveAside(problem);
  RecordOnly('D', StoredPath());
  if (auto removed = RemoveTree(parent_.get(), name_.c_str()); !removed) {
    return FailedCall(problem, removed.failure().op, removed.failure().error);
  }
  return true;
}

bool Applier::Create(TarReader* reader, const Entry& entry, Problem* problem) {
  switch (entry.type) {
    case EntryType::kFile: return CreateFile(reader, entry, problem);
    case EntryType::kDirectory: return CreateDirectory(entry, problem);
    case EntryType::kHardLink: return CreateHardLink(entry, problem);
    default: return CreateNode(entry, problem);
  }
}

bool Applier::CreateFile(TarReader* reader, const Entry& entry, Problem* problem) {
  constexpr int kFlags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
  // The common case first: nothing has that name.
  auto fd = sys::open_at(parent_.get(), name_.c_str(), kFlags, 0600);
  if (!fd && fd.failure().error == EEXIST) {
    if (!RemoveExisting(problem)) return false;
    fd = sys::open_at(parent_.get(), name_.c_str(), kFlags, 0600);
  }
  if (!fd) return FailedCall(problem, fd.failure().op, fd.failure().error);
  uint64_t hash = 0;
  return WriteBody(reader, fd->get(), entry, &hash, problem) && SetMetadataOf(fd->get(), entry, problem) &&
         RecordEntry(entry, hash, problem);
}

bool Applier::WriteBody(TarReader* reader, int fd, const Entry& entry, uint64_t* hash, Problem* problem) {
  if (record_ != nullptr && entry.stored_bytes > 0) {
    RecordOp op;
    op.kind = 'B';
    op.path = StoredPath();
    op.number = entry.stored_bytes;
    op.segments = entry.segments;
    record_->Add(op);
  }
  ContentHash sum;
  const uint8_t* bytes = nullptr;
  size_t size = 0, segment = 0;
  uint64_t in_segment = 0, offset = 0;
  for (;;) {
    if (size == 0) {
      if (!reader->Body(&bytes, &size, problem)) return false;
      if (size == 0) break;
      if (record_ != nullptr) sum.Update(bytes, size);
    }
    size_t part = size;
    if (entry.is_sparse) {
      // The reader has checked that the segments hold exactly the body.
      const Segment& at = entry.segments[segment];
      offset = at.offset + in_segment;
      part = static_cast<size_t>(std::min<uint64_t>(size, at.size - in_segment));
    }
    const ssize_t written = ::pwrite(fd, bytes, part, static_cast<off_t>(offset));
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FailedCall(problem, "pwrite64", errno);
    bytes += written;
    size -= static_cast<size_t>(written);
    offset += static_cast<uint64_t>(written);
    in_segment += static_cast<uint64_t>(written);
    if (entry.is_sparse && in_segment == entry.segments[segment].size) {
      segment++;
      in_segment = 0;
    }
  }
  if (entry.is_sparse && ::ftruncate(fd, static_cast<off_t>(entry.file_bytes)) < 0) {
    return FailedCall(problem, "ftruncate", errno);
  }
  *hash = sum.Finish();
  return true;
}

bool Applier::CreateDirectory(const Entry& entry, Problem* problem) {
  bool made = ::mkdirat(parent_.get(), name_.c_str(), 0700) == 0;
  bool opaque = false;
  if (!made) {
    if (errno != EEXIST) return FailedCall(problem, "mkdirat", errno);
    struct stat st;
    if (::fstatat(parent_.get(), name_.c_str(), &st, AT_SYMLINK_NOFOLLOW) < 0) {
      return FailedCall(problem, "newfstatat", errno);
    }
    if (!S_ISDIR(st.st_mode)) {
      if (!RemoveExisting(problem)) return false;
      opaque = replaces_whiteout_;
      if (::mkdirat(parent_.get(), name_.c_str(), 0700) < 0) return FailedCall(problem, "mkdirat", errno);
    }
  }
  auto dir = sys::open_at(parent_.get(), name_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!dir) return FailedCall(problem, dir.failure().op, dir.failure().error);
  if (opaque && !MakeOpaque(dir->get(), problem)) return false;
  if (!SetMetadataOf(dir->get(), entry, problem) || !RememberDirectory(dir->get(), entry, problem)) return false;
  if (!RecordEntry(entry, 0, problem)) return false;
  if (opaque) RecordOnly('O', StoredPath());
  return true;
}

bool Applier::CreateHardLink(const Entry& entry, Problem* problem) {
  std::vector<std::string> parts;
  if (!SplitPath(entry.link, &parts, problem)) return false;
  if (parts.empty()) return Refuse(problem, "hard link to the root");
  std::string dir_path = "/";
  for (size_t i = 0; i + 1 < parts.size(); i++) dir_path += parts[i] + "/";
  auto dir = sys::openat2_in_root(root_, dir_path.c_str(), O_PATH | O_DIRECTORY, 0);
  if (!dir) return Refuse(problem, "hard link to \"" + entry.link + "\", which is not in this layer");
  struct stat target, existing;
  if (::fstatat(dir->get(), parts.back().c_str(), &target, AT_SYMLINK_NOFOLLOW) < 0) {
    if (errno == ENOENT) return Refuse(problem, "hard link to \"" + entry.link + "\", which is not in this layer");
    return FailedCall(problem, "newfstatat", errno);
  }
  if (S_ISDIR(target.st_mode)) return Refuse(problem, "hard link to a directory");
  if (S_ISCHR(target.st_mode) && target.st_rdev == makedev(0, 0)) {
    return Refuse(problem, "hard link to \"" + entry.link + "\", which this layer removes");
  }
  if (::fstatat(parent_.get(), name_.c_str(), &existing, AT_SYMLINK_NOFOLLOW) == 0) {
    // A link to itself would remove the one file that there is.
    if (existing.st_ino == target.st_ino && existing.st_dev == target.st_dev) return true;
    if (!RemoveExisting(problem)) return false;
  }
  if (::linkat(dir->get(), parts.back().c_str(), parent_.get(), name_.c_str(), 0) < 0) {
    return FailedCall(problem, "linkat", errno);
  }
  if (record_ != nullptr) {
    RecordOp op;
    op.kind = 'H';
    op.path = StoredPath();
    op.target = PathOf(dir->get(), dir_path.substr(1)) + parts.back();
    record_->Add(op);
  }
  return true;
}

bool Applier::CreateNode(const Entry& entry, Problem* problem) {
  if (!RemoveExisting(problem)) return false;
  if (entry.type == EntryType::kSymlink) {
    if (entry.link.empty()) return Refuse(problem, "symbolic link to nothing");
    if (::symlinkat(entry.link.c_str(), parent_.get(), name_.c_str()) < 0) return FailedCall(problem, "symlinkat", errno);
    return SetMetadataAt(entry, problem) && RecordEntry(entry, 0, problem);
  }
  const mode_t kind = entry.type == EntryType::kFifo ? S_IFIFO : entry.type == EntryType::kCharDevice ? S_IFCHR : S_IFBLK;
  const dev_t device = kind == S_IFIFO ? 0 : makedev(entry.device_major, entry.device_minor);
  if (kind == S_IFCHR && device == makedev(0, 0)) return Refuse(problem, "device 0:0, which is a whiteout to overlayfs");
  if (::mknodat(parent_.get(), name_.c_str(), kind, device) < 0) return FailedCall(problem, "mknodat", errno);
  return SetMetadataAt(entry, problem) && RecordEntry(entry, 0, problem);
}

}  // namespace layer
