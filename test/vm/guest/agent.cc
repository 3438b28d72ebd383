// Runs the host's commands in the guest: `agent CHECKOUT`, started by init and started again if
// it ends.
//
// A request is one line on the virtio port named minke.agent, `<id> <milliseconds> <script in
// base64>`; bash runs the script in the checkout. The answer is one line of JSON with the output
// in base64: {"id":1,"code":0,"signal":0,"timedOut":false,"ms":12,"stdout":"…","stderr":"…"}.
// Requests run side by side. What a script leaves running in the background goes on; its output
// is no longer anybody's. A program and not a shell script, because ten processes for one
// request take a second here.

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr size_t kOutputLimitBytes = 8u << 20;
constexpr const char* kPortName = "minke.agent";

struct Job {
  std::string id;
  pid_t pid;
  int pidfd;
  int output[2];  // memfds of stdout and stderr
  int64_t started_at_ms;
  int64_t deadline_ms;
  bool timed_out;
};

int64_t NowMs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1000000;
}

[[noreturn]] void Die(const char* what) {
  dprintf(STDERR_FILENO, "minke-vm agent: %s: %s\n", what, strerror(errno));
  sleep(1);
  _exit(1);
}

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

std::string Encode(std::string_view bytes) {
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t k = 0; k < 3; k++) {
      group = group << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0u);
    }
    for (size_t k = 0; k < 4; k++) {
      text += i + k <= bytes.size() ? kAlphabet[group >> (18 - 6 * k) & 63] : '=';
    }
  }
  return text;
}

std::string Decode(std::string_view text) {
  std::string bytes;
  uint32_t group = 0;
  int bits = 0;
  for (const char c : text) {
    const char* found = c == '\0' ? nullptr : strchr(kAlphabet, c);
    if (found == nullptr) continue;  // padding
    group = group << 6 | static_cast<uint32_t>(found - kAlphabet);
    bits += 6;
    if (bits < 8) continue;
    bits -= 8;
    bytes += static_cast<char>(group >> bits & 255);
  }
  return bytes;
}

std::string ReadWhole(int fd) {
  std::string text;
  struct stat info;
  if (fstat(fd, &info) != 0) return text;
  text.resize(std::min(static_cast<size_t>(info.st_size), kOutputLimitBytes));
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = pread(fd, text.data() + done, text.size() - done, static_cast<off_t>(done));
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

int OpenPort() {
  for (int number = 0; number < 32; number++) {
    char path[64];
    snprintf(path, sizeof path, "/sys/class/virtio-ports/vport0p%d/name", number);
    const int name = open(path, O_RDONLY | O_CLOEXEC);
    if (name < 0) continue;
    char text[64] = "";
    const ssize_t got = read(name, text, sizeof text - 1);
    close(name);
    if (got <= 0 || strncmp(text, kPortName, strlen(kPortName)) != 0) continue;
    snprintf(path, sizeof path, "/dev/vport0p%d", number);
    return open(path, O_RDWR | O_CLOEXEC);
  }
  errno = ENODEV;
  return -1;
}

void WriteAll(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t put = write(fd, text.data(), text.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return;  // the host has gone: nobody waits for this answer
    text.remove_prefix(static_cast<size_t>(put));
  }
}

[[noreturn]] void RunScript(const std::string& script, const int output[2]) {
  setsid();
  const int null = open("/dev/null", O_RDONLY);
  dup2(null, STDIN_FILENO);
  dup2(output[0], STDOUT_FILENO);
  dup2(output[1], STDERR_FILENO);
  if (null > STDERR_FILENO) close(null);
  execl("/bin/bash", "bash", "-c", script.c_str(), static_cast<char*>(nullptr));
  dprintf(STDERR_FILENO, "bash: %s\n", strerror(errno));
  _exit(127);
}

// A malformed line is what a host's cut connection left: ignored.
void Start(std::string_view line, std::vector<Job>* jobs) {
  const size_t first = line.find(' ');
  const size_t second = first == line.npos ? line.npos : line.find(' ', first + 1);
  if (second == line.npos) return;
  Job job{};
  job.id = line.substr(0, first);
  if (job.id.find_first_not_of("0123456789") != job.id.npos) return;
  job.started_at_ms = NowMs();
  job.deadline_ms = job.started_at_ms + atoll(std::string(line.substr(first + 1, second - first - 1)).c_str());
  const std::string script = Decode(line.substr(second + 1));
  for (int& fd : job.output) {
    fd = memfd_create("output", MFD_CLOEXEC);
    // Two descriptions of one offset: O_APPEND keeps a background writer from writing over others.
    if (fd < 0 || fcntl(fd, F_SETFL, O_APPEND) != 0) Die("memfd_create");
  }
  job.pid = fork();
  if (job.pid < 0) Die("fork");
  if (job.pid == 0) RunScript(script, job.output);
  job.pidfd = static_cast<int>(syscall(SYS_pidfd_open, job.pid, 0));
  if (job.pidfd < 0) Die("pidfd_open");
  jobs->push_back(job);
}

void Answer(int port, const Job& job) {
  int status = 0;
  waitpid(job.pid, &status, 0);
  const int signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  const int code = signal != 0 ? 128 + signal : WEXITSTATUS(status);
  char head[160];
  snprintf(head, sizeof head, R"({"id":%s,"code":%d,"signal":%d,"timedOut":%s,"ms":%lld,"stdout":")", job.id.c_str(),
           code, signal, job.timed_out ? "true" : "false", static_cast<long long>(NowMs() - job.started_at_ms));
  std::string line = head + Encode(ReadWhole(job.output[0])) + R"(","stderr":")" + Encode(ReadWhole(job.output[1]));
  WriteAll(port, line + "\"}\n");
  close(job.pidfd);
  close(job.output[0]);
  close(job.output[1]);
}

// Takes the lines that are whole out of `text`.
void StartRequests(std::string* text, std::vector<Job>* jobs) {
  for (size_t end = text->find('\n'); end != text->npos; end = text->find('\n')) {
    Start(std::string_view(*text).substr(0, end), jobs);
    text->erase(0, end + 1);
  }
}

void EndOverdue(std::vector<Job>* jobs) {
  for (Job& job : *jobs) {
    if (job.timed_out || NowMs() < job.deadline_ms) continue;
    job.timed_out = true;
    kill(-job.pid, SIGKILL);
  }
}

[[noreturn]] void Serve(int port) {
  std::vector<Job> jobs;
  std::string text;
  for (;;) {
    std::vector<pollfd> watched{{port, POLLIN, 0}};
    for (const Job& job : jobs) watched.push_back({job.pidfd, POLLIN, 0});
    if (poll(watched.data(), watched.size(), jobs.empty() ? -1 : 100) < 0 && errno != EINTR) Die("poll");
    for (size_t i = jobs.size(); i-- > 0;) {
      if (watched[i + 1].revents == 0) continue;
      Answer(port, jobs[i]);
      jobs.erase(jobs.begin() + static_cast<std::ptrdiff_t>(i));
    }
    EndOverdue(&jobs);
    if (watched[0].revents == 0) continue;
    char chunk[65536];
    const ssize_t got = read(port, chunk, sizeof chunk);
    if (got > 0) {
      text.append(chunk, static_cast<size_t>(got));
      StartRequests(&text, &jobs);
    } else {
      // End of file: no host is connected at the moment, and none of its half lines counts.
      text.clear();
      usleep(50000);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) Die("usage: agent CHECKOUT");
  signal(SIGPIPE, SIG_IGN);
  setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
  setenv("HOME", "/root", 1);
  setenv("LC_ALL", "C.UTF-8", 1);
  const int port = OpenPort();
  if (port < 0) Die("open the port");
  if (chdir(argv[1]) != 0) Die("chdir to the checkout");
  Serve(port);
}
