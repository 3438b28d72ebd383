#include "monitor/runtime_call.h"

#include <errno.h>
#include <fcntl.h>
#include <rapidjson/document.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <initializer_list>
#include <utility>

#include "sys/files.h"

namespace monitor {
namespace {

constexpr size_t kMaxLogBytes = 256 * 1024;
constexpr size_t kMaxPidBytes = 32;

unsigned NextSerial() {
  static unsigned serial = 0;
  return ++serial;
}

bool HasAny(const std::string& text, std::initializer_list<const char*> words) {
  for (const char* const word : words) {
    if (text.find(word) != std::string::npos) return true;
  }
  return false;
}

// In the child.
[[noreturn]] void Exec(const char* path, char* const arguments[], const int stdio[3]) {
  for (int signal = 1; signal <= SIGRTMAX; ++signal) ::signal(signal, SIG_DFL);
  int copies[3];
  for (int i = 0; i < 3; ++i) {
    const int fd = stdio[i] >= 0 ? stdio[i] : ::open("/dev/null", O_RDWR | O_CLOEXEC);
    // Above 2, so that none stands in another's way.
    copies[i] = fd < 0 ? -1 : ::fcntl(fd, F_DUPFD_CLOEXEC, 10);
    if (copies[i] < 0) ::_exit(126);
  }
  for (int i = 0; i < 3; ++i) ::dup2(copies[i], i);
  static_cast<void>(sys::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC).ok());
  char search[] = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
  char home[] = "HOME=/root";
  char* const environment[] = {search, home, nullptr};
  ::execve(path, arguments, environment);
  ::_exit(127);
}

// The last message of a log of JSON lines that is an error.
std::string LastError(const std::string& log) {
  std::string found;
  for (size_t begin = 0; begin < log.size();) {
    const size_t end = std::min(log.find('\n', begin), log.size());
    rapidjson::Document line;
    line.Parse<rapidjson::kParseIterativeFlag>(log.data() + begin, end - begin);
    begin = end + 1;
    if (line.HasParseError() || !line.IsObject()) continue;
    const auto level = line.FindMember("level");
    const auto message = line.FindMember("msg");
    if (message == line.MemberEnd() || !message->value.IsString()) continue;
    const bool is_error = level == line.MemberEnd() || !level->value.IsString() ||
                          HasAny(level->value.GetString(), {"err", "fatal", "panic"});
    if (is_error) found = message->value.GetString();
  }
  return found;
}

}  // namespace

RuntimeCall::RuntimeCall(const OtherRuntime* runtime) : runtime_(runtime), serial_(NextSerial()) {}

RuntimeCall::~RuntimeCall() {
  for (const char* const kind : {"log", "pid", "tty", "process"}) ::unlink(FileName(kind).c_str());
}

std::string RuntimeCall::FileName(const char* kind) const {
  return runtime_->state_dir + "/call-" + std::to_string(serial_) + "." + kind;
}

void RuntimeCall::AddPidFile() {
  Add("--pid-file");
  Add(FileName("pid"));
}

sys::Result<void> RuntimeCall::AddProcess(const std::string& json) {
  Add("--process");
  Add(FileName("process"));
  return sys::WriteAtomically(AT_FDCWD, FileName("process").c_str(), json, 0600, false);
}

// The directory may be deep: unix(7) has 108 bytes for a path, so both sides go by its descriptor.
sys::Result<void> RuntimeCall::AddConsoleSocket() {
  auto directory = sys::open_at(AT_FDCWD, runtime_->state_dir.c_str(), O_PATH | O_DIRECTORY);
  if (!directory) return directory.failure();
  directory_ = std::move(*directory);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  snprintf(address.sun_path, sizeof address.sun_path, "/proc/%d/fd/%d/call-%u.tty", ::getpid(), directory_.get(), serial_);
  listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!listener_.valid()) return sys::FailedWithErrno("socket");
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) < 0) return sys::FailedWithErrno("bind");
  if (::listen(listener_.get(), 1) < 0) return sys::FailedWithErrno("listen");
  Add("--console-socket");
  Add(address.sun_path);
  return {};
}

sys::Result<void> RuntimeCall::Start(const std::string& command, const int stdio[3]) {
  command_ = command;
  std::vector<std::string> words = {runtime_->path};
  words.insert(words.end(), runtime_->args.begin(), runtime_->args.end());
  for (const std::string& word : {std::string("--root"), runtime_->state_dir, std::string("--log"), FileName("log"),
                                  std::string("--log-format"), std::string("json"), command}) {
    words.push_back(word);
  }
  words.insert(words.end(), arguments_.begin(), arguments_.end());
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  auto pid = sys::clone3(sys::CloneRequest{}, &pidfd_);
  if (!pid) return pid.failure();
  if (*pid == 0) Exec(runtime_->path.c_str(), pointers.data(), stdio);
  pid_ = *pid;
  return {};
}

void RuntimeCall::Kill() {
  if (pid_ > 0) static_cast<void>(sys::pidfd_send_signal(pidfd_.get(), SIGKILL).ok());
}

pid_t RuntimeCall::ReadPid() const {
  auto text = sys::ReadFileAt(AT_FDCWD, FileName("pid").c_str(), kMaxPidBytes);
  return text ? static_cast<pid_t>(atoi(text->c_str())) : 0;
}

// The runtime has ended, so what it sent is here: nothing blocks.
sys::UniqueFd RuntimeCall::TakeTerminal() {
  const sys::UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!socket.valid()) return {};
  char name[256];
  iovec part{name, sizeof name};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))];
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  if (::recvmsg(socket.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) < 0) return {};
  const cmsghdr* const header = CMSG_FIRSTHDR(&message);
  if (header == nullptr || header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) return {};
  int fd;
  memcpy(&fd, CMSG_DATA(header), sizeof fd);
  return sys::UniqueFd(fd);
}

runtime::Problem RuntimeCall::ToProblem(const sys::ExitStatus& status) const {
  runtime::Problem problem;
  problem.step = command_;
  auto log = sys::ReadFileAt(AT_FDCWD, FileName("log").c_str(), kMaxLogBytes);
  std::string said = log ? LastError(*log) : "";
  if (said.empty()) {
    said = status.signal != 0 ? "it was ended by signal " + std::to_string(status.signal)
                              : "it ended with exit code " + std::to_string(status.code);
  }
  problem.message = runtime_->path + " " + command_ + ": " + said;
  // No runtime's words are a protocol; these are of crun, runc and minke-oci for a failed execve.
  const bool is_exec = HasAny(said, {"exec: \"", "executable file", "exec \"", "exec container process"});
  if (!is_exec) return problem;
  if (HasAny(said, {"not found", "o such file or directory", "ENOENT"})) {
    problem.step = "exec", problem.syscall = "execve", problem.errno_name = "ENOENT", problem.error = ENOENT;
  } else if (HasAny(said, {"ermission denied", "EACCES"})) {
    problem.step = "exec", problem.syscall = "execve", problem.errno_name = "EACCES", problem.error = EACCES;
  }
  return problem;
}

}  // namespace monitor
