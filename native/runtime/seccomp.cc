#include "runtime/seccomp.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>
#include <seccomp.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <memory>

#include "runtime/describe_report.h"
#include "sys/files.h"
#include "sys/unix_socket.h"

#if defined(__x86_64__)
#define MINKE_AUDIT_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define MINKE_AUDIT_ARCH AUDIT_ARCH_AARCH64
#endif

namespace runtime {
namespace {

constexpr uint32_t kX32Bit = 0x40000000;
constexpr int kSurelyKnown = 440;  // process_madvise, Linux 5.10

bool Fail(const std::string& doing, const char* call, int error, Problem* problem) {
  *problem = DescribeFailure(Step::kSeccomp, doing, {call, error});
  return false;
}

bool AddRule(scmp_filter_ctx context, const SeccompRule& rule, const char* name, uint32_t fallback,
             SeccompFilter* filter, Problem* problem) {
  const int number = seccomp_syscall_resolve_name(name);
  if (number == __NR_SCMP_ERROR) {
    filter->unknown_names.push_back(name);
    return true;
  }
  if (rule.action == fallback) return true;  // libseccomp refuses what the default says already
  std::vector<struct scmp_arg_cmp> args;
  for (const SeccompArg& arg : rule.args) {
    args.push_back({arg.index, static_cast<enum scmp_compare>(arg.op), arg.value, arg.value_two});
  }
  // Several conditions on one argument are alternatives, as in runc: one rule each.
  bool has_same_index = false;
  for (size_t i = 1; i < args.size(); i++) {
    for (size_t j = 0; j < i; j++) has_same_index |= args[i].arg == args[j].arg;
  }
  int error = 0;
  if (has_same_index) {
    for (const auto& arg : args) {
      if (error == 0) error = seccomp_rule_add_array(context, rule.action, number, 1, &arg);
    }
  } else {
    error = seccomp_rule_add_array(context, rule.action, number,
                                   static_cast<unsigned>(args.size()), args.data());
  }
  if (error == 0 || error == -EEXIST) return true;
  return Fail(std::string("rule of \"") + name + "\"", "seccomp_rule_add", -error, problem);
}

// The number after the newest call that libseccomp knows by name.
uint32_t FirstUnknown() {
  uint32_t number = kSurelyKnown;
  for (;; number++) {
    char* name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, static_cast<int>(number));
    if (name == nullptr) return number;
    free(name);
  }
}

// Before the filter: native calls with a number nobody knows return ENOSYS.
void PrependUnknownCalls(std::vector<struct sock_filter>* program) {
  const struct sock_filter stub[] = {
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MINKE_AUDIT_ARCH, 0, 4),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 2, 0),
      BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FirstUnknown(), 0, 1),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
  };
  program->insert(program->begin(), stub, stub + std::size(stub));
}

bool Export(scmp_filter_ctx context, SeccompFilter* filter, Problem* problem) {
  sys::UniqueFd file(::memfd_create("seccomp", MFD_CLOEXEC));
  if (!file.valid()) return Fail("export filter", "memfd_create", errno, problem);
  if (const int error = seccomp_export_bpf(context, file.get()); error != 0) {
    return Fail("export filter", "seccomp_export_bpf", -error, problem);
  }
  ::lseek(file.get(), 0, SEEK_SET);
  auto bytes = sys::ReadAll(file.get(), BPF_MAXINSNS * sizeof(struct sock_filter));
  if (!bytes) return Fail("export filter", bytes.failure().op, bytes.failure().error, problem);
  filter->program.resize(bytes->size() / sizeof(struct sock_filter));
  memcpy(filter->program.data(), bytes->data(), bytes->size());
  return true;
}

}  // namespace

void SeccompFilter::FillContext(ChildContext* context) {
  if (program.empty()) return;
  header.len = static_cast<unsigned short>(program.size());
  header.filter = program.data();
  context->seccomp = &header;
  context->seccomp_flags = flags;
  context->seccomp_notify = notify;
}

bool CompileSeccomp(const SeccompSpec& spec, SeccompFilter* filter, Problem* problem) {
  if (!spec.present) return true;
  std::unique_ptr<void, void (*)(void*)> context(seccomp_init(spec.default_action),
                                                 [](void* filter) { seccomp_release(filter); });
  if (context == nullptr) return Fail("make filter", "seccomp_init", EINVAL, problem);
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_NNP, 0);
  for (const uint32_t architecture : spec.architectures) {
    const int error = seccomp_arch_add(context.get(), architecture);
    if (error != 0 && error != -EEXIST) {
      return Fail("add architecture", "seccomp_arch_add", -error, problem);
    }
  }
  for (const SeccompRule& rule : spec.rules) {
    filter->notify = filter->notify || rule.action == SCMP_ACT_NOTIFY;
    for (const char* name : rule.names) {
      if (!AddRule(context.get(), rule, name, spec.default_action, filter, problem)) return false;
    }
  }
  if (!Export(context.get(), filter, problem)) return false;
  if ((spec.default_action & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_ERRNO) {
    PrependUnknownCalls(&filter->program);
  }
  if (filter->program.size() > BPF_MAXINSNS) return Fail("filter", "seccomp", E2BIG, problem);
  filter->flags = spec.flags;
  if (filter->notify) filter->flags |= SECCOMP_FILTER_FLAG_NEW_LISTENER;
  return true;
}

bool SendSeccompListener(const SeccompSpec& spec, const std::string& id, pid_t pid,
                         const std::string& bundle, int fd, Problem* problem) {
  const std::string doing = std::string("send notify descriptor to \"") + spec.listener_path + "\"";
  rapidjson::StringBuffer buffer;
  rapidjson::Writer<rapidjson::StringBuffer> writer(buffer);
  writer.StartObject();
  writer.Key("ociVersion");
  writer.String("1.3.0");
  writer.Key("fds");
  writer.StartArray();
  writer.String("seccompFd");
  writer.EndArray();
  writer.Key("pid");
  writer.Int(pid);
  writer.Key("metadata");
  writer.String(spec.listener_metadata);
  writer.Key("state");
  writer.StartObject();
  writer.Key("ociVersion");
  writer.String("1.3.0");
  writer.Key("id");
  writer.String(id.c_str());
  writer.Key("status");
  writer.String("creating");
  writer.Key("pid");
  writer.Int(pid);
  writer.Key("bundle");
  writer.String(bundle.c_str());
  writer.EndObject();
  writer.EndObject();
  auto sent = sys::send_fd_to_path(spec.listener_path, {buffer.GetString(), buffer.GetSize()}, fd);
  return sent || Fail(doing, sent.failure().op, sent.failure().error, problem);
}

}  // namespace runtime
