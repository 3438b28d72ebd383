// The floor: only the system calls that one pod of one container needs, and nothing around
// them. What minke is measured against, in the same run on the same machine.
//
//   floor SCRATCH_DIR CGROUP_DIR
//
// For every line on standard input it makes one pod and prints one line of JSON with the
// microseconds of each part. SCRATCH_DIR holds `lower`, a root with a static /bin/true.
// Removing what was made is not in the figures.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/veth.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void Die(const char* what) {
  fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
  exit(1);
}

static int Check(int result, const char* what) {
  if (result < 0) Die(what);
  return result;
}

static double NowUs(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

// --- namespaces: made by a thread that ends, held by descriptors -----------------------------

struct Namespaces {
  int net, ipc, uts;
  int route;  // NETLINK_ROUTE socket inside the new network namespace
};

static void* MakeNamespaces(void* out) {
  struct Namespaces* made = out;
  Check(unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "unshare");
  made->net = Check(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC), "open ns/net");
  made->ipc = Check(open("/proc/thread-self/ns/ipc", O_RDONLY | O_CLOEXEC), "open ns/ipc");
  made->uts = Check(open("/proc/thread-self/ns/uts", O_RDONLY | O_CLOEXEC), "open ns/uts");
  made->route = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "socket");
  return NULL;
}

// --- netlink -----------------------------------------------------------------------------------

struct Batch {
  _Alignas(NLMSG_ALIGNTO) char bytes[4096];
  size_t used;
  struct nlmsghdr* message;
  int messages;
};

static void* Append(struct Batch* batch, const void* bytes, size_t size) {
  void* at = batch->bytes + batch->used;
  memset(at, 0, NLMSG_ALIGN(size));
  if (bytes) memcpy(at, bytes, size);
  batch->used += NLMSG_ALIGN(size);
  if (batch->message) batch->message->nlmsg_len = (char*)batch->bytes + batch->used - (char*)batch->message;
  return at;
}

static void Begin(struct Batch* batch, int type, int flags, const void* body, size_t size) {
  batch->message = NULL;
  struct nlmsghdr* header = Append(batch, NULL, sizeof(*header));
  header->nlmsg_type = type;
  header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
  header->nlmsg_seq = ++batch->messages;
  batch->message = header;
  Append(batch, body, size);
}

static struct rtattr* Attribute(struct Batch* batch, int type, const void* value, size_t size) {
  const struct rtattr head = {.rta_len = RTA_LENGTH(size), .rta_type = type};
  struct rtattr* made = Append(batch, &head, sizeof(head));
  if (size) Append(batch, value, size);
  return made;
}

static void EndNest(struct Batch* batch, struct rtattr* nest) {
  nest->rta_len = batch->bytes + batch->used - (char*)nest;
}

static void Transact(int fd, struct Batch* batch, const char* what) {
  Check(send(fd, batch->bytes, batch->used, 0), what);
  for (int left = batch->messages; left > 0;) {
    _Alignas(NLMSG_ALIGNTO) char reply[8192];
    int size = Check(recv(fd, reply, sizeof(reply), 0), what);
    for (struct nlmsghdr* at = (void*)reply; NLMSG_OK(at, (unsigned)size); at = NLMSG_NEXT(at, size)) {
      if (at->nlmsg_type != NLMSG_ERROR) continue;
      errno = -((struct nlmsgerr*)NLMSG_DATA(at))->error;
      if (errno) Die(what);
      left--;
    }
  }
}

static void AddVeth(int route, int netns, const char* name) {
  struct Batch batch = {0};
  const struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
  const struct ifinfomsg peer = {0};
  const uint32_t target = netns;
  Begin(&batch, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof(up));
  Attribute(&batch, IFLA_IFNAME, name, strlen(name) + 1);
  struct rtattr* link = Attribute(&batch, IFLA_LINKINFO, NULL, 0);
  Attribute(&batch, IFLA_INFO_KIND, "veth", 5);
  struct rtattr* info = Attribute(&batch, IFLA_INFO_DATA, NULL, 0);
  struct rtattr* other = Attribute(&batch, VETH_INFO_PEER, NULL, 0);
  Append(&batch, &peer, sizeof(peer));
  Attribute(&batch, IFLA_IFNAME, "eth0", 5);
  Attribute(&batch, IFLA_NET_NS_FD, &target, sizeof(target));
  EndNest(&batch, other);
  EndNest(&batch, info);
  EndNest(&batch, link);
  Transact(route, &batch, "add veth");
}

static void AddAddress(struct Batch* batch, int family, const char* text, int prefix, int index) {
  unsigned char address[16];
  const struct ifaddrmsg head = {
      .ifa_family = family, .ifa_prefixlen = prefix, .ifa_flags = IFA_F_NODAD, .ifa_index = index};
  inet_pton(family, text, address);
  Begin(batch, RTM_NEWADDR, NLM_F_CREATE, &head, sizeof(head));
  Attribute(batch, IFA_LOCAL, address, family == AF_INET ? 4 : 16);
}

// In a new namespace lo is 1; the peer is the only other link, made with the index 2.
static void ConfigureInside(int route) {
  struct Batch batch = {0};
  for (int index = 1; index <= 2; index++) {
    const struct ifinfomsg up = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    Begin(&batch, RTM_NEWLINK, 0, &up, sizeof(up));
  }
  AddAddress(&batch, AF_INET, "192.0.2.2", 24, 2);
  AddAddress(&batch, AF_INET6, "2001:db8::2", 64, 2);
  Transact(route, &batch, "configure inside");
}

// --- overlay and process -----------------------------------------------------------------------

static int MountOverlay(const char* scratch, int n) {
  char path[3][256];
  snprintf(path[0], sizeof(path[0]), "%s/lower", scratch);
  snprintf(path[1], sizeof(path[1]), "%s/upper%d", scratch, n);
  snprintf(path[2], sizeof(path[2]), "%s/work%d", scratch, n);
  Check(mkdir(path[1], 0755), "mkdir upper");
  Check(mkdir(path[2], 0755), "mkdir work");
  const int fs = Check(fsopen("overlay", FSOPEN_CLOEXEC), "fsopen");
  Check(fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir", path[0], 0), "lowerdir");
  Check(fsconfig(fs, FSCONFIG_SET_STRING, "upperdir", path[1], 0), "upperdir");
  Check(fsconfig(fs, FSCONFIG_SET_STRING, "workdir", path[2], 0), "workdir");
  Check(fsconfig(fs, FSCONFIG_SET_FLAG, "volatile", NULL, 0), "volatile");
  Check(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0), "fsconfig create");
  const int mount = Check(fsmount(fs, FSMOUNT_CLOEXEC, 0), "fsmount");
  close(fs);
  return mount;
}

static void RunTrue(const struct Namespaces* in, int root, int cgroup, const char* scratch) {
  int pidfd = -1;
  struct clone_args args = {
      .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWCGROUP | CLONE_INTO_CGROUP | CLONE_PIDFD,
      .pidfd = (uintptr_t)&pidfd,
      .exit_signal = SIGCHLD,
      .cgroup = cgroup,
  };
  const long pid = syscall(SYS_clone3, &args, sizeof(args));
  if (pid == 0) {
    char* const argv[] = {"true", NULL};
    char* const env[] = {NULL};
    if (setns(in->net, CLONE_NEWNET) || setns(in->ipc, CLONE_NEWIPC) || setns(in->uts, CLONE_NEWUTS)) _exit(101);
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) _exit(102);
    if (move_mount(root, "", AT_FDCWD, scratch, MOVE_MOUNT_F_EMPTY_PATH)) _exit(103);
    if (chdir(scratch) || syscall(SYS_pivot_root, ".", ".")) _exit(104);
    if (umount2(".", MNT_DETACH) || chdir("/")) _exit(105);
    execve("/bin/true", argv, env);
    _exit(106);
  }
  Check(pid, "clone3");
  siginfo_t info;
  Check(waitid(P_PIDFD, pidfd, &info, WEXITED), "waitid");
  if (info.si_code != CLD_EXITED || info.si_status != 0) {
    fprintf(stderr, "floor: the child ended at step %d\n", info.si_status);
    exit(1);
  }
  close(pidfd);
}

static void OnePod(int route, const char* scratch, const char* cgroups, int n) {
  char cgroup[512], link[IFNAMSIZ], mountpoint[512], command[1200];
  snprintf(cgroup, sizeof(cgroup), "%s/pod%d", cgroups, n);
  snprintf(link, sizeof(link), "mkf%d", n);
  snprintf(mountpoint, sizeof(mountpoint), "%s/root", scratch);
  struct Namespaces made;
  pthread_t thread;

  const double start = NowUs();
  if (pthread_create(&thread, NULL, MakeNamespaces, &made)) Die("pthread_create");
  pthread_join(thread, NULL);
  const double namespaces = NowUs();
  AddVeth(route, made.net, link);
  ConfigureInside(made.route);
  const double veth = NowUs();
  Check(mkdir(cgroup, 0755), "mkdir cgroup");
  const int cgroup_fd = Check(open(cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC), "open cgroup");
  const double made_cgroup = NowUs();
  const int root = MountOverlay(scratch, n);
  const double overlay = NowUs();
  RunTrue(&made, root, cgroup_fd, mountpoint);
  const double end = NowUs();

  printf("{\"namespacesUs\":%.1f,\"vethUs\":%.1f,\"cgroupUs\":%.1f,\"overlayUs\":%.1f,\"processUs\":%.1f,"
         "\"totalUs\":%.1f}\n",
         namespaces - start, veth - namespaces, made_cgroup - veth, overlay - made_cgroup, end - overlay, end - start);
  fflush(stdout);

  close(root);
  close(cgroup_fd);
  close(made.route);
  close(made.net);  // the last reference: the kernel removes the pair with the namespace
  close(made.ipc);
  close(made.uts);
  Check(rmdir(cgroup), "rmdir cgroup");
  snprintf(command, sizeof(command), "rm -rf '%s/upper%d' '%s/work%d'", scratch, n, scratch, n);
  if (system(command) != 0) Die("rm");
}

int main(int argc, char** argv) {
  char line[64];
  if (argc != 3) {
    fprintf(stderr, "usage: floor SCRATCH_DIR CGROUP_DIR\n");
    return 2;
  }
  const int route = Check(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE), "socket");
  for (int n = 0; fgets(line, sizeof(line), stdin); n++) OnePod(route, argv[1], argv[2], n);
  return 0;
}
