// What a container sees from inside, as one JSON object; and small deeds that tests ask for.
//
//   probe                    prints the report
//   probe sleep SECONDS      prints "ready", sleeps; 0 sleeps for ever
//   probe exit CODE
//   probe crash SIGNAL       kills itself by that signal, default action restored
//   probe write PATH TEXT    creates or truncates; prints nothing
//   probe read PATH
//   probe listen PORT        answers every TCP connection, IPv4 and IPv6, with the report
//   probe sem create KEY | probe sem list
//   probe shm create KEY BYTES | probe shm list
//   probe posixshm create NAME | probe posixshm list
//   probe allocate MIB       touches that much memory, prints "ready", sleeps for ever
//   probe fork COUNT         starts that many sleeping children, prints how many it got
//   probe ttysize            rows and columns of standard input, or "not a tty"
//
// Exit codes: 0; 1 with "probe: <call>: <errno text>" on standard error; 2 for bad usage.
// Static, no NSS: numbers only. Must not need anything of the rootfs.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/capability.h>
#include <net/if.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

extern char **environ;

enum { kBadUsage = -1 };

static FILE *out;
static int first_member;

static int Fail(const char *call) {
  fprintf(stderr, "probe: %s: %s\n", call, strerror(errno));
  return 1;
}

// Bytes above 0x7f go out as \u00XX of that byte: a report stays valid JSON whatever a name holds.
static void PutString(const char *text) {
  fputc('"', out);
  for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
    if (*p == '"' || *p == '\\') fprintf(out, "\\%c", *p);
    else if (*p < 0x20 || *p > 0x7e) fprintf(out, "\\u%04x", *p);
    else fputc(*p, out);
  }
  fputc('"', out);
}

static void Key(const char *name) {
  if (!first_member) fputc(',', out);
  first_member = 0;
  PutString(name);
  fputc(':', out);
}

static void Number(const char *name, long long value) {
  Key(name);
  fprintf(out, "%lld", value);
}

static void Text(const char *name, const char *value) {
  Key(name);
  if (value) PutString(value);
  else fputs("null", out);
}

// A whole file as an array of its lines, or null where it cannot be read.
static void Lines(const char *name, const char *path) {
  Key(name);
  FILE *in = fopen(path, "re");
  if (!in) {
    fputs("null", out);
    return;
  }
  char *line = NULL;
  size_t room = 0;
  ssize_t length;
  int count = 0;
  fputc('[', out);
  while ((length = getline(&line, &room, in)) >= 0) {
    if (length > 0 && line[length - 1] == '\n') line[length - 1] = 0;
    if (count++) fputc(',', out);
    PutString(line);
  }
  fputc(']', out);
  free(line);
  fclose(in);
}

static void Identity(void) {
  uid_t ruid, euid, suid;
  gid_t rgid, egid, sgid;
  getresuid(&ruid, &euid, &suid);
  getresgid(&rgid, &egid, &sgid);
  Number("uid", ruid);
  Number("euid", euid);
  Number("suid", suid);
  Number("gid", rgid);
  Number("egid", egid);
  Number("sgid", sgid);
  gid_t groups[1024];
  int count = getgroups(1024, groups);
  Key("groups");
  fputc('[', out);
  for (int i = 0; i < count; i++) fprintf(out, "%s%u", i ? "," : "", groups[i]);
  fputc(']', out);
  Number("pid", getpid());
  Number("ppid", getppid());
  Number("pgid", getpgid(0));
  Number("sid", getsid(0));
}

// The lines of /proc/self/status by name; the capability sets and Seccomp come from here.
static void Status(void) {
  Key("status");
  fputc('{', out);
  FILE *in = fopen("/proc/self/status", "re");
  char line[4096];
  int count = 0;
  while (in && fgets(line, sizeof line, in)) {
    char *colon = strchr(line, ':');
    if (!colon) continue;
    *colon = 0;
    char *value = colon + 1 + strspn(colon + 1, " \t");
    value[strcspn(value, "\n")] = 0;
    if (count++) fputc(',', out);
    PutString(line);
    fputc(':', out);
    PutString(value);
  }
  if (in) fclose(in);
  fputc('}', out);
}

// Read by system calls, so that they are there even without a procfs.
static void Security(void) {
  struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  struct __user_cap_data_struct sets[2] = {{0, 0, 0}, {0, 0, 0}};
  syscall(SYS_capget, &header, sets);
  unsigned long long bounding = 0, ambient = 0;
  for (int cap = 0; cap < 64; cap++) {
    if (prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1) bounding |= 1ULL << cap;
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1) ambient |= 1ULL << cap;
  }
  Key("capabilities");
  fprintf(out, "{\"effective\":\"%016llx\",\"permitted\":\"%016llx\",\"inheritable\":\"%016llx\",\"bounding\":\"%016llx\",\"ambient\":\"%016llx\"}",
          (unsigned long long)sets[1].effective << 32 | sets[0].effective, (unsigned long long)sets[1].permitted << 32 | sets[0].permitted,
          (unsigned long long)sets[1].inheritable << 32 | sets[0].inheritable, bounding, ambient);
  Number("noNewPrivs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
  Number("seccompMode", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
  Number("dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
  Number("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
}

static void Namespaces(void) {
  static const char *const kNames[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
  Key("namespaces");
  fputc('{', out);
  for (size_t i = 0; i < sizeof kNames / sizeof *kNames; i++) {
    char path[64];
    struct stat st;
    snprintf(path, sizeof path, "/proc/self/ns/%s", kNames[i]);
    fprintf(out, "%s\"%s\":%llu", i ? "," : "", kNames[i], stat(path, &st) == 0 ? (unsigned long long)st.st_ino : 0ULL);
  }
  fputc('}', out);
}

static void Rlimits(void) {
  static const char *const kNames[] = {"cpu",   "fsize", "data",   "stack", "core",       "rss",      "nproc", "nofile",
                                       "memlock", "as",  "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime"};
  Key("rlimits");
  fputc('{', out);
  for (int i = 0; i < 16; i++) {
    struct rlimit limit = {0, 0};
    getrlimit(i, &limit);
    fprintf(out, "%s\"%s\":{\"soft\":\"%llu\",\"hard\":\"%llu\"}", i ? "," : "", kNames[i], (unsigned long long)limit.rlim_cur, (unsigned long long)limit.rlim_max);
  }
  fputc('}', out);
}

static void OpenFiles(void) {
  Key("fds");
  fputc('{', out);
  DIR *dir = opendir("/proc/self/fd");
  int count = 0;
  for (struct dirent *entry; dir && (entry = readdir(dir));) {
    if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir)) continue;
    char target[4096];
    ssize_t length = readlinkat(dirfd(dir), entry->d_name, target, sizeof target - 1);
    target[length < 0 ? 0 : length] = 0;
    if (count++) fputc(',', out);
    PutString(entry->d_name);
    fputc(':', out);
    PutString(target);
  }
  if (dir) closedir(dir);
  fputc('}', out);
}

static void Environment(char **argv) {
  Key("args");
  fputc('[', out);
  for (int i = 0; argv[i]; i++) {
    if (i) fputc(',', out);
    PutString(argv[i]);
  }
  fputc(']', out);
  Key("env");
  fputc('[', out);
  for (int i = 0; environ[i]; i++) {
    if (i) fputc(',', out);
    PutString(environ[i]);
  }
  fputc(']', out);
  char cwd[4096];
  Text("cwd", getcwd(cwd, sizeof cwd));
  struct utsname names;
  uname(&names);
  Text("hostname", names.nodename);
  Text("domainname", names.domainname);
  mode_t mask = umask(0);
  umask(mask);
  Number("umask", mask);
}

static void Addresses(void) {
  Key("addresses");
  fputc('[', out);
  struct ifaddrs *list = NULL;
  int count = 0;
  if (getifaddrs(&list) == 0) {
    for (struct ifaddrs *at = list; at; at = at->ifa_next) {
      if (!at->ifa_addr || (at->ifa_addr->sa_family != AF_INET && at->ifa_addr->sa_family != AF_INET6)) continue;
      char text[INET6_ADDRSTRLEN] = "";
      const void *address = at->ifa_addr->sa_family == AF_INET ? (const void *)&((struct sockaddr_in *)at->ifa_addr)->sin_addr
                                                               : (const void *)&((struct sockaddr_in6 *)at->ifa_addr)->sin6_addr;
      inet_ntop(at->ifa_addr->sa_family, address, text, sizeof text);
      fprintf(out, "%s{\"interface\":", count++ ? "," : "");
      PutString(at->ifa_name);
      fprintf(out, ",\"address\":\"%s\",\"up\":%s}", text, at->ifa_flags & IFF_UP ? "true" : "false");
    }
    freeifaddrs(list);
  }
  fputc(']', out);
}

// Null where the rootfs has no such device; else "char 1:3 0666".
static void Devices(void) {
  static const char *const kPaths[] = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/console"};
  Key("devices");
  fputc('{', out);
  for (size_t i = 0; i < sizeof kPaths / sizeof *kPaths; i++) {
    struct stat st;
    fprintf(out, "%s\"%s\":", i ? "," : "", kPaths[i]);
    if (stat(kPaths[i], &st) != 0) fputs("null", out);
    else fprintf(out, "\"%s %u:%u %04o\"", S_ISCHR(st.st_mode) ? "char" : "other", (unsigned)(st.st_rdev >> 8 & 0xfff), (unsigned)(st.st_rdev & 0xff), st.st_mode & 07777);
  }
  fputc('}', out);
}

static void Report(char **argv) {
  first_member = 1;
  fputc('{', out);
  Identity();
  Security();
  Status();
  Namespaces();
  Environment(argv);
  Rlimits();
  OpenFiles();
  Addresses();
  Devices();
  Lines("mountinfo", "/proc/self/mountinfo");
  Lines("cgroup", "/proc/self/cgroup");
  Lines("uidMap", "/proc/self/uid_map");
  Lines("gidMap", "/proc/self/gid_map");
  Lines("oomScoreAdj", "/proc/self/oom_score_adj");
  Lines("hosts", "/etc/hosts");
  Lines("resolvConf", "/etc/resolv.conf");
  Lines("etcHostname", "/etc/hostname");
  fputs("}\n", out);
}

static int Sleep(unsigned seconds) {
  puts("ready");
  fflush(stdout);
  if (seconds == 0)
    for (;;) pause();
  while ((seconds = sleep(seconds)) != 0) {
  }
  return 0;
}

static int Crash(int signal_number) {
  signal(signal_number, SIG_DFL);
  sigset_t all;
  sigemptyset(&all);
  sigprocmask(SIG_SETMASK, &all, NULL);
  kill(getpid(), signal_number);
  // Pid 1 of a namespace is immune to its own default-action signals (pid_namespaces(7)).
  errno = EPERM;
  return Fail("kill");
}

static int WriteFile(const char *path, const char *text) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return Fail("open");
  size_t length = strlen(text);
  if (write(fd, text, length) != (ssize_t)length) return Fail("write");
  return close(fd) == 0 ? 0 : Fail("close");
}

static int ReadFile(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return Fail("open");
  char buffer[65536];
  ssize_t length;
  while ((length = read(fd, buffer, sizeof buffer)) > 0)
    if (fwrite(buffer, 1, (size_t)length, stdout) != (size_t)length) return Fail("write");
  return length == 0 ? 0 : Fail("read");
}

// One dual-stack socket, so that a test reaches it by both families.
static int Listen(int port, char **argv) {
  int listener = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) return Fail("socket");
  int on = 1, off = 0;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  setsockopt(listener, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons((unsigned short)port)};
  if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0) return Fail("bind");
  if (listen(listener, 64) != 0) return Fail("listen");
  signal(SIGPIPE, SIG_IGN);
  puts("ready");
  fflush(stdout);
  for (;;) {
    int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0) return Fail("accept4");
    out = fdopen(connection, "w");
    if (!out) return Fail("fdopen");
    Report(argv);
    fclose(out);
  }
}

static int ListProc(const char *path) {
  out = stdout;
  first_member = 1;
  fputc('{', out);
  Lines("lines", path);
  fputs("}\n", out);
  return 0;
}

static int Semaphores(int argc, char **argv) {
  if (argc == 1 && strcmp(argv[0], "list") == 0) return ListProc("/proc/sysvipc/sem");
  if (argc != 2 || strcmp(argv[0], "create") != 0) return kBadUsage;
  int id = semget((key_t)strtol(argv[1], NULL, 0), 1, IPC_CREAT | 0666);
  if (id < 0) return Fail("semget");
  printf("%d\n", id);
  return 0;
}

static int SharedMemory(int argc, char **argv) {
  if (argc == 1 && strcmp(argv[0], "list") == 0) return ListProc("/proc/sysvipc/shm");
  if (argc != 3 || strcmp(argv[0], "create") != 0) return kBadUsage;
  int id = shmget((key_t)strtol(argv[1], NULL, 0), (size_t)atoll(argv[2]), IPC_CREAT | 0666);
  if (id < 0) return Fail("shmget");
  printf("%d\n", id);
  return 0;
}

static int PosixSharedMemory(int argc, char **argv) {
  if (argc == 2 && strcmp(argv[0], "create") == 0) {
    char path[256];
    snprintf(path, sizeof path, "/dev/shm/%s", argv[1]);
    return WriteFile(path, "shared");
  }
  if (argc != 1 || strcmp(argv[0], "list") != 0) return kBadUsage;
  DIR *dir = opendir("/dev/shm");
  if (!dir) return Fail("opendir");
  for (struct dirent *entry; (entry = readdir(dir));)
    if (entry->d_name[0] != '.') puts(entry->d_name);
  closedir(dir);
  return 0;
}

static int Allocate(long mib) {
  for (long i = 0; i < mib; i++) {
    char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) return Fail("mmap");
    memset(page, 1, 1 << 20);
  }
  return Sleep(0);
}

static int Fork(long count) {
  long made = 0;
  for (; made < count; made++) {
    pid_t child = fork();
    if (child < 0) break;
    if (child == 0)
      for (;;) pause();
  }
  printf("%ld\n", made);
  return Sleep(0);
}

static int TtySize(void) {
  struct winsize size;
  if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) puts("not a tty");
  else printf("%d %d\n", size.ws_row, size.ws_col);
  return 0;
}

static int Run(int argc, char **argv) {
  const char *verb = argc > 1 ? argv[1] : "report";
  out = stdout;
  if (argc <= 2 && strcmp(verb, "report") == 0) return Report(argv), 0;
  if (argc == 2 && strcmp(verb, "ttysize") == 0) return TtySize();
  if (argc == 3 && strcmp(verb, "sleep") == 0) return Sleep((unsigned)atoi(argv[2]));
  if (argc == 3 && strcmp(verb, "exit") == 0) return atoi(argv[2]);
  if (argc == 3 && strcmp(verb, "crash") == 0) return Crash(atoi(argv[2]));
  if (argc == 4 && strcmp(verb, "write") == 0) return WriteFile(argv[2], argv[3]);
  if (argc == 3 && strcmp(verb, "read") == 0) return ReadFile(argv[2]);
  if (argc == 3 && strcmp(verb, "listen") == 0) return Listen(atoi(argv[2]), argv);
  if (argc >= 3 && strcmp(verb, "sem") == 0) return Semaphores(argc - 2, argv + 2);
  if (argc >= 3 && strcmp(verb, "shm") == 0) return SharedMemory(argc - 2, argv + 2);
  if (argc >= 3 && strcmp(verb, "posixshm") == 0) return PosixSharedMemory(argc - 2, argv + 2);
  if (argc == 3 && strcmp(verb, "allocate") == 0) return Allocate(atol(argv[2]));
  if (argc == 3 && strcmp(verb, "fork") == 0) return Fork(atol(argv[2]));
  return kBadUsage;
}

int main(int argc, char **argv) {
  const int code = Run(argc, argv);
  if (fflush(stdout) != 0) return Fail("write");
  if (code != kBadUsage) return code;
  fputs("probe: usage: see the head of rootfs-fixtures/probe/probe.c\n", stderr);
  return 2;
}
