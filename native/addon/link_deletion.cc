// Deletion of links, over for the caller when the kernel says that they are gone.
//
// The answer to RTM_DELLINK comes 10 to 45 ms after the links have left every list: before it
// the kernel waits for all readers of freed memory (net/core/dev.c, netdev_run_todo,
// rcu_barrier). The RTM_DELLINK notification of each link comes 1 to 2 ms after the request.
// So one thread deletes and another one, which the promise is of, listens.
#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <set>
#include <string>

#include "addon/async_op.h"
#include "addon/netlink_socket.h"
#include "addon/registration.h"

namespace addon {
namespace {

// Of threads that wait for the kernel's answer although their links are gone; with more, callers wait along.
constexpr int kMostUnderWay = 8;
std::atomic<int> under_way{0};

// Shared by both threads; the last one frees it.
struct Deletion {
  std::string request;
  sys::UniqueFd answered;  // eventfd: readable once `replies` is set
  sys::Result<std::string> replies = sys::Failure{"recv", ETIMEDOUT};
};

void* RunDeletion(void* argument) {
  std::unique_ptr<std::shared_ptr<Deletion>> owner(static_cast<std::shared_ptr<Deletion>*>(argument));
  Deletion& deletion = **owner;
  {
    sys::Result<sys::UniqueFd> socket = OpenNetlink(NETLINK_ROUTE);
    if (!socket) {
      deletion.replies = socket.failure();
    } else {
      deletion.replies = NetlinkExchange(socket->get(), deletion.request, 1);
    }
  }
  --under_way;
  const uint64_t one = 1;
  // An eventfd takes 2^64 - 2 of them.
  (void)!::write(deletion.answered.get(), &one, sizeof one);
  return nullptr;
}

sys::Result<void> StartDeletion(const std::shared_ptr<Deletion>& deletion) {
  auto* argument = new std::shared_ptr<Deletion>(deletion);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
  pthread_attr_setstacksize(&attributes, 256 * 1024);
  pthread_t thread;
  ++under_way;
  const int error = pthread_create(&thread, &attributes, RunDeletion, argument);
  pthread_attr_destroy(&attributes);
  if (error == 0) return {};
  --under_way;
  delete argument;
  return sys::Failure{"pthread_create", error};
}

// A socket that hears of the links that come and go from now on.
sys::Result<sys::UniqueFd> OpenListener() {
  sys::UniqueFd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE));
  if (!fd.valid()) return sys::FailedWithErrno("socket");
  struct sockaddr_nl self;
  memset(&self, 0, sizeof self);
  self.nl_family = AF_NETLINK;
  self.nl_groups = RTMGRP_LINK;
  if (::bind(fd.get(), reinterpret_cast<struct sockaddr*>(&self), sizeof self) < 0) {
    return sys::FailedWithErrno("bind");
  }
  return fd;
}

// The name of the link that a message says is gone, or an empty one. A bridge tells of its lost
// ports with the same message and family AF_BRIDGE.
std::string DeletedLink(struct nlmsghdr* header) {
  if (header->nlmsg_type != RTM_DELLINK) return {};
  if (header->nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg))) return {};
  auto* link = static_cast<struct ifinfomsg*>(NLMSG_DATA(header));
  if (link->ifi_family != AF_UNSPEC) return {};
  int length = static_cast<int>(IFLA_PAYLOAD(header));
  for (struct rtattr* attribute = IFLA_RTA(link); RTA_OK(attribute, length);
       attribute = RTA_NEXT(attribute, length)) {
    if ((attribute->rta_type & NLA_TYPE_MASK) != IFLA_IFNAME) continue;
    const char* name = static_cast<const char*>(RTA_DATA(attribute));
    return std::string(name, strnlen(name, RTA_PAYLOAD(attribute)));
  }
  return {};
}

// Strikes out what has gone. False where messages were lost: then only the answer tells.
bool ReadNotifications(int fd, std::set<std::string>* waited_for) {
  alignas(struct nlmsghdr) char buffer[32 * 1024];
  for (;;) {
    const ssize_t received = ::recv(fd, buffer, sizeof buffer, MSG_TRUNC);
    if (received < 0 && errno == EINTR) continue;
    if (received < 0) return errno == EAGAIN;
    if (static_cast<size_t>(received) > sizeof buffer) return false;
    unsigned left = static_cast<unsigned>(received);
    for (auto* header = reinterpret_cast<struct nlmsghdr*>(buffer); NLMSG_OK(header, left);
         header = NLMSG_NEXT(header, left)) {
      waited_for->erase(DeletedLink(header));
    }
  }
}

// The kernel's answer, or an empty string where every named link has gone before it came.
// Without names, or where others wait for their answers already, it is the answer.
sys::Result<std::string> DeleteLinks(const std::string& request, std::set<std::string> names) {
  auto deletion = std::make_shared<Deletion>();
  deletion->request = request;
  deletion->answered.reset(::eventfd(0, EFD_CLOEXEC));
  if (!deletion->answered.valid()) return sys::FailedWithErrno("eventfd");
  sys::UniqueFd listener;
  if (!names.empty() && under_way < kMostUnderWay) {
    sys::Result<sys::UniqueFd> opened = OpenListener();
    if (!opened) return opened.failure();
    listener = std::move(*opened);
  }
  sys::Result<void> started = StartDeletion(deletion);
  if (!started) return started.failure();
  for (;;) {
    // poll(2) leaves an entry with a negative descriptor out.
    struct pollfd sources[] = {{deletion->answered.get(), POLLIN, 0},
                               {listener.valid() ? listener.get() : -1, POLLIN, 0}};
    if (::poll(sources, 2, -1) < 0 && errno != EINTR) return sys::FailedWithErrno("poll");
    if (sources[0].revents != 0) return std::move(deletion->replies);
    if (sources[1].revents == 0) continue;
    if (!ReadNotifications(listener.get(), &names)) listener.reset();
    if (names.empty()) return std::string();
  }
}

// deleteLinks(request, ...names) -> Promise<Buffer>: the answer to the request, empty where the
// named links were seen to go first. The request is one message.
Napi::Value DeleteLinksCall(const Napi::CallbackInfo& info) {
  Napi::Buffer<char> request = info[0].As<Napi::Buffer<char>>();
  std::set<std::string> names;
  for (size_t i = 1; i < info.Length(); ++i) names.insert(StringArgument(info, i));
  return SettleOnOwnThread<std::string>(
      info.Env(),
      [bytes = std::string(request.Data(), request.Length()), names] {
        return DeleteLinks(bytes, names);
      },
      [](Napi::Env env, std::string& replies) -> Napi::Value {
        return Napi::Buffer<char>::Copy(env, replies.data(), replies.size());
      });
}

}  // namespace

void RegisterLinkDeletion(Napi::Env env, Napi::Object exports) {
  Export(env, exports, "deleteLinks", DeleteLinksCall);
}

}  // namespace addon
