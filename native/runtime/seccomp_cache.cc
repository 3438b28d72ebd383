// Compiled seccomp filters, kept: the last one in memory, and files for other processes.
//
// A file holds what the filter was made from (profile, libseccomp, machine) and the filter. It is
// used only if the first part is equal byte for byte, so a collision of names costs a compilation
// and nothing else. It is written aside and renamed; a damaged one is not taken.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <optional>

#include "runtime/seccomp.h"
#include "sys/files.h"

namespace runtime {
namespace {

constexpr size_t kMaxFileBytes = 4u << 20;
constexpr size_t kMaxFiles = 64;
constexpr uint32_t kFormat = 1;

class Packer {
 public:
  template <typename Number>
  void Add(Number number) {
    text.append(reinterpret_cast<const char*>(&number), sizeof number);
  }
  void Add(std::string_view bytes) {
    Add(static_cast<uint32_t>(bytes.size()));
    text.append(bytes);
  }
  std::string text;
};

class Unpacker {
 public:
  explicit Unpacker(std::string_view rest) : rest_(rest) {}
  template <typename Number>
  bool Take(Number* number) {
    if (rest_.size() < sizeof *number) return false;
    memcpy(number, rest_.data(), sizeof *number);
    rest_.remove_prefix(sizeof *number);
    return true;
  }
  bool Take(std::string_view* bytes) {
    uint32_t size;
    if (!Take(&size) || rest_.size() < size) return false;
    *bytes = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return true;
  }
  bool empty() const { return rest_.empty(); }

 private:
  std::string_view rest_;
};

std::string KeyOf(const SeccompSpec& spec) {
  Packer key;
  const struct scmp_version* version = seccomp_version();
  for (const uint32_t number : {kFormat, version->major, version->minor, version->micro,
                                seccomp_arch_native(), seccomp_api_get(), spec.default_action,
                                spec.flags, static_cast<uint32_t>(spec.architectures.size())}) {
    key.Add(number);
  }
  for (const uint32_t architecture : spec.architectures) key.Add(architecture);
  for (const SeccompRule& rule : spec.rules) {
    key.Add(rule.action);
    key.Add(static_cast<uint32_t>(rule.names.size()));
    for (const char* name : rule.names) key.Add(std::string_view(name));
    key.Add(static_cast<uint32_t>(rule.args.size()));
    for (const SeccompArg& arg : rule.args) {
      key.Add(arg.index);
      key.Add(arg.op);
      key.Add(arg.value);
      key.Add(arg.value_two);
    }
  }
  return std::move(key.text);
}

// FNV-1a, 64 bits: a name, not a proof.
std::string NameOf(const std::string& key) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char c : key) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3;
  std::string name(16, '0');
  for (size_t i = 16; i-- > 0; hash >>= 4) name[i] = "0123456789abcdef"[hash & 15];
  return name;
}

std::string Pack(const std::string& key, const SeccompFilter& filter) {
  Packer packer;
  packer.Add(std::string_view(key));
  packer.Add(static_cast<uint32_t>(filter.flags));
  packer.Add(static_cast<uint32_t>(filter.notify));
  packer.Add(static_cast<uint32_t>(filter.unknown_names.size()));
  for (const std::string& name : filter.unknown_names) packer.Add(std::string_view(name));
  packer.Add(std::string_view(reinterpret_cast<const char*>(filter.program.data()),
                              filter.program.size() * sizeof(struct sock_filter)));
  return std::move(packer.text);
}

std::optional<SeccompFilter> Unpack(const std::string& key, const std::string& text) {
  Unpacker unpacker(text);
  std::string_view stored, program;
  uint32_t flags = 0, notify = 0, names = 0;
  if (!unpacker.Take(&stored) || stored != key || !unpacker.Take(&flags) ||
      !unpacker.Take(&notify) || !unpacker.Take(&names)) {
    return std::nullopt;
  }
  SeccompFilter filter;
  filter.flags = flags;
  filter.notify = notify != 0;
  for (uint32_t i = 0; i < names; i++) {
    std::string_view name;
    if (!unpacker.Take(&name)) return std::nullopt;
    filter.unknown_names.emplace_back(name);
  }
  if (!unpacker.Take(&program) || !unpacker.empty() || program.empty() ||
      program.size() % sizeof(struct sock_filter) != 0) {
    return std::nullopt;
  }
  filter.program.resize(program.size() / sizeof(struct sock_filter));
  memcpy(filter.program.data(), program.data(), program.size());
  return filter;
}

// Made where it is missing. Invalid: there is none that is ours alone, and none is used.
sys::UniqueFd OpenDirectory(const std::string& directory) {
  if (directory.empty()) return sys::UniqueFd();
  if (::mkdir(directory.c_str(), 0700) < 0 && errno != EEXIST) return sys::UniqueFd();
  auto fd = sys::open_at(AT_FDCWD, directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  struct stat status;
  if (!fd || ::fstat(fd->get(), &status) < 0) return sys::UniqueFd();
  if (status.st_uid != ::geteuid() || (status.st_mode & 077) != 0) return sys::UniqueFd();
  return std::move(*fd);
}

// A machine has few profiles; whoever makes them by the thousand must not fill the disk.
void MakeRoom(int directory) {
  DIR* entries = ::fdopendir(::fcntl(directory, F_DUPFD_CLOEXEC, 3));
  if (entries == nullptr) return;
  size_t count = 0;
  while (::readdir(entries) != nullptr) count++;
  ::rewinddir(entries);
  while (const struct dirent* entry = count > kMaxFiles ? ::readdir(entries) : nullptr) {
    if (entry->d_name[0] != '.') ::unlinkat(directory, entry->d_name, 0);
  }
  ::closedir(entries);
}

}  // namespace

bool CachedSeccomp(const SeccompSpec& spec, const std::string& directory, SeccompFilter* filter,
                   Problem* problem) {
  if (!spec.present) return true;
  static std::string last_key;
  static SeccompFilter last;
  std::string key = KeyOf(spec);
  if (key == last_key) {
    *filter = last;
    return true;
  }
  const sys::UniqueFd cache = OpenDirectory(directory);
  const std::string name = NameOf(key);
  std::optional<SeccompFilter> found;
  if (cache.valid()) {
    if (auto text = sys::ReadFileAt(cache.get(), name.c_str(), kMaxFileBytes)) {
      found = Unpack(key, *text);
    }
  }
  if (!found) {
    found.emplace();
    if (!CompileSeccomp(spec, &*found, problem)) return false;
    if (cache.valid()) {
      MakeRoom(cache.get());
      // A full disk costs the next start a compilation.
      (void)sys::WriteAtomically(cache.get(), name.c_str(), Pack(key, *found), 0600, false).ok();
    }
  }
  *filter = *found;
  last = std::move(*found);
  last_key = std::move(key);
  return true;
}

}  // namespace runtime
