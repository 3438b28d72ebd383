#include "layer/verify.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <map>
#include <set>

#include "sys/files.h"

namespace layer {
namespace {

constexpr size_t kMaxListed = 100;

// What must stand somewhere; hard links share one.
struct Expected {
  StoredFacts facts;
  bool is_whiteout = false;
  bool is_opaque = false;
  bool is_sound = true;  // its bytes are what they were
  ino_t inode = 0;       // of the first name of it that was seen
  std::string seen_as;
};

class Verifier {
 public:
  Verifier(int directory, VerifyFacts* out) : directory_(directory), out_(out) {}
  bool Run(Problem* problem);

 private:
  void Learn(const RecordOp& op, uint64_t body_hash);
  void LearnFacts(const RecordOp& op);
  void Forget(const std::string& path);
  void Report(const char* kind, const std::string& path, std::string message);
  bool Walk(Problem* problem);
  bool List(const std::string& path, std::vector<std::string>* names, Problem* problem);
  void Look(const std::string& path, const struct stat& st, const std::string& place);
  void Compare(const std::string& path, Expected* expected, const struct stat& st, const std::string& place);
  void CompareXattrs(const std::string& path, const Expected& expected, const std::string& place);
  bool IsImplied(const std::string& path, const struct stat& st) const;

  const int directory_;
  VerifyFacts* const out_;
  sys::UniqueFd tree_;
  std::map<std::string, size_t> nodes_;  // path -> index of expected_
  std::vector<Expected> expected_;
  std::map<std::string, uint64_t> hashes_;  // of bodies whose facts have not come yet
  std::set<std::string> told_;              // bodies reported by the replay
  std::set<std::string> seen_;
};

void Verifier::Report(const char* kind, const std::string& path, std::string message) {
  if (out_->damage_count++ < kMaxListed) out_->damage.push_back({kind, path, std::move(message)});
}

void Verifier::Forget(const std::string& path) {
  nodes_.erase(path);
  const std::string below = path + "/";
  for (auto at = nodes_.lower_bound(below); at != nodes_.end() && at->first.starts_with(below);) at = nodes_.erase(at);
}

void Verifier::LearnFacts(const RecordOp& op) {
  const auto known = nodes_.find(op.path);
  const bool stays_directory = known != nodes_.end() && S_ISDIR(op.facts.mode) && S_ISDIR(expected_[known->second].facts.mode);
  Expected next;
  next.facts = op.facts;
  // A second entry of a directory changes it; it stays the same one, with what it hides.
  if (stays_directory) {
    next.is_opaque = expected_[known->second].is_opaque;
    expected_[known->second] = std::move(next);
    return;
  }
  if (const auto hash = hashes_.find(op.path); hash != hashes_.end()) {
    next.is_sound = hash->second == op.facts.hash && !told_.contains(op.path);
    if (hash->second != op.facts.hash && !told_.contains(op.path)) Report("content", op.path, "has other bytes than were unpacked");
    hashes_.erase(hash);
  }
  told_.erase(op.path);
  nodes_[op.path] = expected_.size();
  expected_.push_back(std::move(next));
}

void Verifier::Learn(const RecordOp& op, uint64_t body_hash) {
  const auto at = nodes_.find(op.path);
  switch (op.kind) {
    case 'B': hashes_[op.path] = body_hash; break;
    case 'F': LearnFacts(op); break;
    case 'M':
    case 'D': Forget(op.path); break;
    case 'H':
      if (const auto target = nodes_.find(op.target); target != nodes_.end()) nodes_[op.path] = target->second;
      break;
    case 'W':
      nodes_[op.path] = expected_.size();
      expected_.emplace_back().is_whiteout = true;
      break;
    case 'O':
      if (at != nodes_.end()) {
        expected_[at->second].is_opaque = true;
      } else {
        // A directory that no entry names: made 0755 for what is in it, and hiding what is below.
        nodes_[op.path] = expected_.size();
        Expected& made = expected_.emplace_back();
        made.is_opaque = true;
        made.facts.mode = S_IFDIR | 0755;
        made.facts.mtime_ns = UINT32_MAX;  // nobody set it
      }
      break;
    case 'T':
      if (at != nodes_.end()) {
        StoredFacts& facts = expected_[at->second].facts;
        facts.mtime_s = op.facts.mtime_s;
        facts.mtime_ns = op.facts.mtime_ns;
        for (const Xattr& late : op.facts.xattrs) {
          std::erase_if(facts.xattrs, [&](const Xattr& xattr) { return xattr.name == late.name; });
          facts.xattrs.push_back(late);
        }
      }
      break;
    default: break;
  }
}

// What the applier made because an entry below it needed a parent.
bool Verifier::IsImplied(const std::string& path, const struct stat& st) const {
  if (!S_ISDIR(st.st_mode)) return false;
  const auto next = nodes_.lower_bound(path + "/");
  const bool is_parent = path.empty() || (next != nodes_.end() && next->first.starts_with(path + "/"));
  return is_parent && (st.st_mode & 07777) == 0755 && st.st_uid == 0 && st.st_gid == 0;
}

void Verifier::CompareXattrs(const std::string& path, const Expected& expected, const std::string& place) {
  std::map<std::string, std::string> wanted;
  for (const Xattr& xattr : expected.facts.xattrs) wanted[xattr.name] = xattr.value;
  if (expected.is_opaque) wanted["trusted.overlay.opaque"] = "y";
  std::string names(XATTR_LIST_MAX, '\0'), value(XATTR_SIZE_MAX, '\0');
  const ssize_t size = ::llistxattr(place.c_str(), names.data(), names.size());
  if (size < 0 && errno != ENOTSUP) return Report("metadata", path, std::string("attributes cannot be read: ") + strerrorname_np(errno));
  for (ssize_t at = 0; at < size; at += static_cast<ssize_t>(strlen(&names[static_cast<size_t>(at)])) + 1) {
    const std::string name = &names[static_cast<size_t>(at)];
    // Labels are the host's, not the image's.
    if (name == "security.selinux" || name == "security.ima" || name == "security.evm") continue;
    const auto found = wanted.find(name);
    if (found == wanted.end()) {
      Report("metadata", path, "has attribute " + name + ", which was not unpacked");
      continue;
    }
    const ssize_t got = ::lgetxattr(place.c_str(), name.c_str(), value.data(), value.size());
    if (got < 0 || value.compare(0, static_cast<size_t>(got), found->second) != 0) {
      Report("metadata", path, "attribute " + name + " has another value");
    }
    wanted.erase(found);
  }
  for (const auto& [name, ignored] : wanted) Report("metadata", path, "attribute " + name + " is gone");
}

std::string Octal(uint32_t mode) {
  char text[16];
  snprintf(text, sizeof text, "%o", mode);
  return text;
}

void Verifier::Compare(const std::string& path, Expected* expected, const struct stat& st, const std::string& place) {
  const StoredFacts& facts = expected->facts;
  if (expected->is_whiteout) {
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(0, 0)) Report("metadata", path, "is not the whiteout that it was");
    return;
  }
  if ((st.st_mode & S_IFMT) != (facts.mode & S_IFMT)) return Report("metadata", path, "is of another type than it was");
  if (st.st_mode != facts.mode) Report("metadata", path, "mode is " + Octal(st.st_mode & 07777) + ", was " + Octal(facts.mode & 07777));
  if (st.st_uid != facts.uid || st.st_gid != facts.gid) {
    Report("metadata", path, "owner is " + std::to_string(st.st_uid) + ":" + std::to_string(st.st_gid) + ", was " +
                                 std::to_string(facts.uid) + ":" + std::to_string(facts.gid));
  }
  const bool has_time = facts.mtime_ns != UINT32_MAX;
  if (has_time && (st.st_mtim.tv_sec != facts.mtime_s || st.st_mtim.tv_nsec != facts.mtime_ns)) {
    Report("metadata", path, "time of change is another");
  }
  if (S_ISREG(st.st_mode) && static_cast<uint64_t>(st.st_size) != facts.size && expected->is_sound) {
    Report("content", path, "has " + std::to_string(st.st_size) + " bytes, had " + std::to_string(facts.size));
  }
  if ((S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) && st.st_rdev != facts.device) Report("metadata", path, "is another device");
  if (S_ISLNK(st.st_mode)) {
    std::string link(facts.link.size() + 1, '\0');
    const ssize_t size = ::readlink(place.c_str(), link.data(), link.size());
    if (size < 0 || link.substr(0, static_cast<size_t>(size)) != facts.link) Report("content", path, "links to something else");
  }
  if (expected->seen_as.empty()) {
    expected->inode = st.st_ino;
    expected->seen_as = path;
  } else if (expected->inode != st.st_ino) {
    Report("metadata", path, "is no hard link to \"" + expected->seen_as + "\" any more");
  }
  CompareXattrs(path, *expected, place);
}

void Verifier::Look(const std::string& path, const struct stat& st, const std::string& place) {
  out_->entries++;
  const auto found = nodes_.find(path);
  if (found != nodes_.end()) {
    seen_.insert(path);
    return Compare(path, &expected_[found->second], st, place);
  }
  if (IsImplied(path, st)) return CompareXattrs(path, Expected(), place);
  const bool may_be_parent = S_ISDIR(st.st_mode) && nodes_.lower_bound(path + "/") != nodes_.end() &&
                             nodes_.lower_bound(path + "/")->first.starts_with(path + "/");
  if (path.empty() || may_be_parent) return Report("metadata", path, "owner or mode of a directory that no entry names");
  Report("added", path, "was not unpacked");
}

bool Verifier::List(const std::string& path, std::vector<std::string>* names, Problem* problem) {
  auto fd = sys::openat2(tree_.get(), path.empty() ? "." : path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW, 0,
                         RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
  if (!fd) {
    *problem = {kSystem, "read a directory of the layer", fd.failure().op, fd.failure().error, path};
    return false;
  }
  const std::string prefix = "/proc/self/fd/" + std::to_string(fd->get()) + "/";
  DIR* dir = ::fdopendir(fd->get());
  if (dir == nullptr) {
    *problem = {kSystem, "read a directory of the layer", "fdopendir", errno, path};
    return false;
  }
  (void)fd->release();
  for (const dirent* at = ::readdir(dir); at != nullptr; at = ::readdir(dir)) {
    if (strcmp(at->d_name, ".") == 0 || strcmp(at->d_name, "..") == 0) continue;
    const std::string child = path.empty() ? at->d_name : path + "/" + at->d_name;
    struct stat st;
    if (::fstatat(::dirfd(dir), at->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0) continue;
    Look(child, st, prefix + at->d_name);
    if (S_ISDIR(st.st_mode)) names->push_back(child);
  }
  ::closedir(dir);
  return true;
}

bool Verifier::Walk(Problem* problem) {
  struct stat st;
  if (::fstat(tree_.get(), &st) < 0) {
    *problem = {kSystem, "read the layer", "newfstatat", errno, ""};
    return false;
  }
  Look("", st, "/proc/self/fd/" + std::to_string(tree_.get()) + "/.");
  std::vector<std::string> pending{""};
  while (!pending.empty()) {
    const std::string path = std::move(pending.back());
    pending.pop_back();
    if (!List(path, &pending, problem)) return false;
  }
  for (const auto& [path, index] : nodes_) {
    if (!seen_.contains(path)) Report("missing", path, "is gone");
  }
  return true;
}

bool Verifier::Run(Problem* problem) {
  auto tree = sys::open_at(directory_, kTreeName, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!tree) {
    Report("missing", "", std::string("the layer's tree cannot be opened: ") + strerrorname_np(tree.failure().error));
    return true;
  }
  tree_ = std::move(*tree);
  ArchiveReplay replay(directory_);
  replay.check_holes = replay.past_cache = true;
  replay.on_op = [this](const RecordOp& op, uint64_t hash) { Learn(op, hash); };
  replay.on_problem = [this](const BodyProblem& body) {
    // What is gone is told by the walk.
    if (!body.message.ends_with("ENOENT")) Report("content", body.path, body.message);
    told_.insert(body.path);
    return true;
  };
  ReplayFacts replayed;
  if (!replay.Run(&replayed, problem)) {
    if (strcmp(problem->code, kDamaged) != 0) return false;
    // Without its record nothing can be said of the tree.
    Report("record", "", problem->message);
    *problem = Problem();
    return true;
  }
  out_->diff_id = replayed.diff_id;
  out_->record_digest = replayed.record_digest;
  out_->bytes = replayed.bytes;
  return Walk(problem);
}

}  // namespace

bool VerifyLayer(int directory, VerifyFacts* facts, Problem* problem) { return Verifier(directory, facts).Run(problem); }

}  // namespace layer
