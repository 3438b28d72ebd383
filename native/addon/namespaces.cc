// The namespaces of a sandbox, made on a thread that exists for one call, with its /dev/shm and, where
// the caller has a link for it, its network.
//
// unshare(2) changes the calling thread for good, so neither the event loop's thread nor one
// of the pool's may make it. The thread ends; the namespaces live on in the descriptors. What
// comes next is done on that thread, as each trip to another costs the event loop a wake-up of it.
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "addon/async_op.h"
#include "addon/netlink_socket.h"
#include "addon/registration.h"
#include "addon/shm.h"
#include "addon/user_namespace.h"
#include "sys/files.h"
#include "sys/namespaces.h"

namespace addon {
namespace {

struct SandboxNamespaces {
  sys::UniqueFd user, net, ipc, uts, netlink, shm;
};

// Two batches of rtnetlink requests, one behind the other, made by src/network: one makes the pair in
// the host, one configures the pod's end. What is known only here is written into them.
struct LinkRequest {
  std::string batches;
  std::string pod_name;  // of the pod's end, by which its index is asked
  size_t pod_from = 0;
  int host_ends = 0, pod_ends = 0;
  size_t netns_at = 0;           // where the descriptor of the pod's network namespace goes
  std::vector<size_t> index_at;  // where the index of the pod's end goes
};

// What the kernel said to each; `pod` is empty where the host's was refused.
struct LinkReplies {
  std::string host, pod;
};

// The second step's own: the caller may close the descriptors that the first gave out.
struct LinkSockets {
  sys::UniqueFd host, pod, netns;
};

struct NamespaceRequest {
  int flags = 0;  // CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
  std::string hostname, domainname;
  IdMaps maps;  // empty: the namespaces belong to the host's user namespace
  std::string sysctls;  // "net/ipv4/ip_forward\0001\000…": path below /proc/sys, value, in turns
  uint64_t shm_bytes = 0;  // 0: no /dev/shm
  LinkRequest link;        // empty: none
};

// Without IPv6 in the kernel the files are missing, and there is nothing to switch off.
sys::Result<void> WriteSysctlIfThere(const char* path, std::string_view value) {
  sys::Result<void> written = sys::WriteFileAt(AT_FDCWD, path, value);
  if (!written && written.failure().error == ENOENT) return {};
  return written;
}

// Pods take no address from router advertisements, and duplicate address detection would keep
// the link-local address tentative for 1.6 s. `default` is copied when a link is born, so it
// is set before eth0 exists.
sys::Result<void> ConfigureNewNetwork() {
  for (const char* name : {"/proc/sys/net/ipv6/conf/default/accept_dad",
                           "/proc/sys/net/ipv6/conf/default/accept_ra"}) {
    sys::Result<void> written = WriteSysctlIfThere(name, "0");
    if (!written) return written;
  }
  return {};
}

// Since Linux 6.4 those of an IPC namespace can be written by its own root alone.
sys::Result<void> WriteSysctl(const char* path, std::string_view value, const IdMaps& maps) {
  sys::Result<void> written = sys::WriteFileAt(AT_FDCWD, path, value);
  if (written || maps.empty() || written.failure().error != EACCES) return written;
  const MappedRoot root(maps);
  return sys::WriteFileAt(AT_FDCWD, path, value);
}

sys::Result<void> WriteSysctls(std::string_view pairs, const IdMaps& maps) {
  while (!pairs.empty()) {
    const size_t path_end = pairs.find('\0');
    const size_t value_end = pairs.find('\0', path_end + 1);
    if (path_end == std::string_view::npos || value_end == std::string_view::npos) {
      return sys::Failure{"sysctl", EINVAL};
    }
    std::string path = "/proc/sys/";
    path += pairs.substr(0, path_end);
    const std::string_view value = pairs.substr(path_end + 1, value_end - path_end - 1);
    sys::Result<void> written = WriteSysctl(path.c_str(), value, maps);
    if (!written) return sys::Failure{"sysctl", written.failure().error};
    pairs.remove_prefix(value_end + 1);
  }
  return {};
}

// The calling thread enters new namespaces of the host's user namespace.
sys::Result<void> EnterNew(int flags, SandboxNamespaces* made) {
  sys::Result<void> step = sys::unshare(flags);
  if (!step) return step;
  struct {
    int flag;
    const char* path;
    sys::UniqueFd* into;
  } const namespaces[] = {
      {CLONE_NEWNET, "/proc/thread-self/ns/net", &made->net},
      {CLONE_NEWIPC, "/proc/thread-self/ns/ipc", &made->ipc},
      {CLONE_NEWUTS, "/proc/thread-self/ns/uts", &made->uts},
  };
  for (const auto& ns : namespaces) {
    if ((flags & ns.flag) == 0) continue;
    sys::Result<sys::UniqueFd> fd = sys::open_at(AT_FDCWD, ns.path, O_RDONLY);
    if (!fd) return fd.failure();
    *ns.into = std::move(fd).value();
  }
  return {};
}

// The same with a user namespace, which no thread can enter: setns(2). The host's root needs
// none of its rights there.
sys::Result<void> EnterMapped(const IdMaps& maps, int flags, SandboxNamespaces* made) {
  sys::Result<UserNamespaces> user = MakeUserNamespaces(maps, flags);
  if (!user) return user.failure();
  made->user = std::move(user->user);
  made->net = std::move(user->net);
  made->ipc = std::move(user->ipc);
  made->uts = std::move(user->uts);
  for (const sys::UniqueFd* fd : {&made->net, &made->ipc, &made->uts}) {
    if (!fd->valid()) continue;
    if (auto joined = sys::setns(fd->get(), 0); !joined) return joined;
  }
  return {};
}

// The order is forced: UTS sysctls act on the namespace of the thread at the time of the write,
// net sysctls on that at the time of the open, and a socket stays where it was made; so all of
// it happens here, on the thread. /proc/self would be the main thread: namespaces(7).
// THREADS: only a thread that ends afterwards.
sys::Result<SandboxNamespaces> MakeNamespaces(const NamespaceRequest& request) {
  SandboxNamespaces made;
  sys::Result<void> step = request.maps.empty() ? EnterNew(request.flags, &made)
                                                : EnterMapped(request.maps, request.flags, &made);
  if (!step) return step.failure();
  if (request.flags & CLONE_NEWUTS) {
    if (::sethostname(request.hostname.data(), request.hostname.size()) < 0) {
      return sys::FailedWithErrno("sethostname");
    }
    // "(none)" is the kernel's own default and would be copied from the host.
    if (::setdomainname(request.domainname.data(), request.domainname.size()) < 0) {
      return sys::FailedWithErrno("setdomainname");
    }
  }
  if (request.flags & CLONE_NEWNET) {
    step = ConfigureNewNetwork();
    if (!step) return step.failure();
    sys::Result<sys::UniqueFd> netlink = OpenNetlink(NETLINK_ROUTE);
    if (!netlink) return netlink.failure();
    made.netlink = std::move(netlink).value();
  }
  step = WriteSysctls(request.sysctls, request.maps);
  if (!step) return step.failure();
  return made;
}

// Before Linux 6.15 there is none of this kind, and -1 says so.
sys::Result<sys::UniqueFd> MakeShmIfCloneable(uint64_t size_bytes) {
  sys::Result<sys::UniqueFd> shm = MakeShm(size_bytes);
  if (!shm && std::string_view(shm.failure().op) == "open_tree" && shm.failure().error == EINVAL) {
    return sys::UniqueFd();
  }
  return shm;
}

sys::Result<sys::UniqueFd> Duplicate(int fd) {
  const int copy = ::fcntl(fd, F_DUPFD_CLOEXEC, 3);
  if (copy < 0) return sys::FailedWithErrno("fcntl");
  return sys::UniqueFd(copy);
}

// All of the first step: what belongs to the host is opened before the thread leaves it.
sys::Result<SandboxNamespaces> MakeSandbox(const NamespaceRequest& request, LinkSockets* sockets) {
  sys::UniqueFd shm;
  if (request.shm_bytes > 0) {
    auto made = MakeShmIfCloneable(request.shm_bytes);
    if (!made) return made.failure();
    shm = std::move(made).value();
  }
  const bool has_link = !request.link.batches.empty();
  if (has_link) {
    auto host = OpenNetlink(NETLINK_ROUTE);
    if (!host) return host.failure();
    sockets->host = std::move(host).value();
  }
  sys::Result<SandboxNamespaces> made = MakeNamespaces(request);
  if (!made) return made;
  made->shm = std::move(shm);
  if (!has_link) return made;
  auto pod = Duplicate(made->netlink.get());
  if (!pod) return pod.failure();
  sockets->pod = std::move(pod).value();
  auto netns = Duplicate(made->net.get());
  if (!netns) return netns.failure();
  sockets->netns = std::move(netns).value();
  return made;
}

void WriteNumber(std::string* bytes, size_t at, int number) {
  if (at + sizeof number <= bytes->size()) memcpy(bytes->data() + at, &number, sizeof number);
}

sys::Result<int> IndexOf(int socket, const std::string& name) {
  struct ifreq request;
  memset(&request, 0, sizeof request);
  name.copy(request.ifr_name, sizeof request.ifr_name - 1);
  if (::ioctl(socket, SIOCGIFINDEX, &request) < 0) return sys::FailedWithErrno("SIOCGIFINDEX");
  return request.ifr_ifindex;
}

// The second step. What the kernel refuses is in the replies: src/network knows what to do.
sys::Result<LinkReplies> MakeLink(LinkRequest request, LinkSockets sockets) {
  LinkReplies replies;
  if (request.batches.empty()) return replies;
  WriteNumber(&request.batches, request.netns_at, sockets.netns.get());
  auto host = NetlinkExchange(sockets.host.get(), request.batches.substr(0, request.pod_from), request.host_ends);
  if (!host) return host.failure();
  replies.host = std::move(host).value();
  if (!IsAllDone(replies.host)) return replies;
  auto index = IndexOf(sockets.pod.get(), request.pod_name);
  if (!index) return index.failure();
  for (const size_t at : request.index_at) WriteNumber(&request.batches, at, *index);
  auto pod = NetlinkExchange(sockets.pod.get(), request.batches.substr(request.pod_from), request.pod_ends);
  if (!pod) return pod.failure();
  replies.pod = std::move(pod).value();
  return replies;
}

LinkRequest LinkArguments(const Napi::CallbackInfo& info, size_t first) {
  LinkRequest link;
  if (!info[first].IsBuffer()) return link;
  const Napi::Buffer<char> batches = info[first].As<Napi::Buffer<char>>();
  link.batches.assign(batches.Data(), batches.Length());
  link.pod_from = static_cast<size_t>(IntArgument(info, first + 1));
  link.host_ends = IntArgument(info, first + 2);
  link.pod_ends = IntArgument(info, first + 3);
  link.netns_at = static_cast<size_t>(IntArgument(info, first + 4));
  link.pod_name = StringArgument(info, first + 5);
  for (size_t at = first + 6; at < info.Length(); ++at) {
    link.index_at.push_back(static_cast<size_t>(IntArgument(info, at)));
  }
  return link;
}

Napi::Value NamespacesToValue(Napi::Env env, SandboxNamespaces& made) {
  Napi::Array fds = Napi::Array::New(env, 6);
  uint32_t at = 0;
  for (sys::UniqueFd* fd : {&made.net, &made.ipc, &made.uts, &made.netlink, &made.user, &made.shm}) {
    fds.Set(at++, Napi::Number::New(env, fd->release()));
  }
  return fds;
}

Napi::Value LinkToValue(Napi::Env env, LinkReplies& replies) {
  Napi::Array both = Napi::Array::New(env, 2);
  both.Set(0u, Napi::Buffer<char>::Copy(env, replies.host.data(), replies.host.size()));
  both.Set(1u, Napi::Buffer<char>::Copy(env, replies.pod.data(), replies.pod.size()));
  return both;
}

// createSandboxNamespaces(network, ipc, uts, hostname, domainname, sysctls, uidMap, gidMap, shmBytes,
//                         [batches, podFrom, hostEnds, podEnds, netnsAt, podName, ...indexAt])
//   -> [Promise<[net, ipc, uts, netlink, user, shm]>, Promise<[hostReplies, podReplies]>], -1 for what was
//      not asked for; the replies are empty without a link
Napi::Value CreateSandboxNamespaces(const Napi::CallbackInfo& info) {
  auto request = std::make_shared<NamespaceRequest>();
  if (info[0].ToBoolean().Value()) request->flags |= CLONE_NEWNET;
  if (info[1].ToBoolean().Value()) request->flags |= CLONE_NEWIPC;
  if (info[2].ToBoolean().Value()) request->flags |= CLONE_NEWUTS;
  request->hostname = StringArgument(info, 3);
  request->domainname = StringArgument(info, 4);
  request->sysctls = StringArgument(info, 5);
  request->maps = {StringArgument(info, 6), StringArgument(info, 7)};
  request->shm_bytes = static_cast<uint64_t>(info[8].As<Napi::Number>().Int64Value());
  request->link = LinkArguments(info, 9);
  auto sockets = std::make_shared<LinkSockets>();
  return SettleTwiceOnOwnThread<SandboxNamespaces, LinkReplies>(
      info.Env(), [request, sockets] { return MakeSandbox(*request, sockets.get()); }, NamespacesToValue,
      [request, sockets] { return MakeLink(std::move(request->link), std::move(*sockets)); }, LinkToValue);
}

}  // namespace

void RegisterNamespaces(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "createSandboxNamespaces", CreateSandboxNamespaces);
}

}  // namespace addon
