#include "runtime/device_policy.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <utility>

#include "runtime/describe_report.h"
#include "sys/unique_fd.h"

namespace runtime {
namespace {

constexpr DeviceRule kDefaults[] = {
    {true, 'c', -1, -1, false, false, true},  // making a node gives no access to the device
    {true, 'b', -1, -1, false, false, true},
    {true, 'c', 1, 3, true, true, true},      // null
    {true, 'c', 1, 5, true, true, true},      // zero
    {true, 'c', 1, 7, true, true, true},      // full
    {true, 'c', 1, 8, true, true, true},      // random
    {true, 'c', 1, 9, true, true, true},      // urandom
    {true, 'c', 5, 0, true, true, true},      // tty
    {true, 'c', 5, 1, true, true, true},      // console
    {true, 'c', 5, 2, true, true, true},      // ptmx
    {true, 'c', 136, -1, true, true, true},   // pts
};

constexpr int kLoadAttempts = 128;

// Registers: the type, the access, major and minor of the request; a scratch; the result.
constexpr uint8_t kResult = 0, kScratch = 1, kType = 2, kAccess = 3, kMajor = 4, kMinor = 5;

struct bpf_insn Instruction(uint8_t code, uint8_t dst, uint8_t src, int16_t offset, int32_t value) {
  struct bpf_insn instruction;
  memset(&instruction, 0, sizeof instruction);
  instruction.code = code;
  instruction.dst_reg = dst & 15;
  instruction.src_reg = src & 15;
  instruction.off = offset;
  instruction.imm = value;
  return instruction;
}

int32_t AccessBits(const DeviceRule& rule) {
  return (rule.mknod ? BPF_DEVCG_ACC_MKNOD : 0) | (rule.read ? BPF_DEVCG_ACC_READ : 0) |
         (rule.write ? BPF_DEVCG_ACC_WRITE : 0);
}

bool AllowsAll(const DeviceRule& rule) {
  return rule.allow && rule.type == 'a' && rule.major < 0 && rule.minor < 0 && AccessBits(rule) == 7;
}

// An allowing rule matches where it gives all that is asked; a refusing one where it refuses
// any of it.
void AppendRule(const DeviceRule& rule, std::vector<struct bpf_insn>* program) {
  std::vector<struct bpf_insn> tests;  // jumps that leave the rule; offsets are set below
  const int32_t access = AccessBits(rule);
  if (rule.type != 'a') {
    const int32_t type = rule.type == 'b' ? BPF_DEVCG_DEV_BLOCK : BPF_DEVCG_DEV_CHAR;
    tests.push_back(Instruction(BPF_JMP | BPF_JNE | BPF_K, kType, 0, 1, type));
  }
  if (access != 7) {
    tests.push_back(Instruction(BPF_ALU64 | BPF_MOV | BPF_X, kScratch, kAccess, 0, 0));
    tests.push_back(Instruction(BPF_ALU64 | BPF_AND | BPF_K, kScratch, 0, 0,
                                rule.allow ? 7 & ~access : access));
    const uint8_t jump = rule.allow ? BPF_JNE : BPF_JEQ;
    tests.push_back(Instruction(BPF_JMP | jump | BPF_K, kScratch, 0, 1, 0));
  }
  if (rule.major >= 0) {
    tests.push_back(
        Instruction(BPF_JMP | BPF_JNE | BPF_K, kMajor, 0, 1, static_cast<int32_t>(rule.major)));
  }
  if (rule.minor >= 0) {
    tests.push_back(
        Instruction(BPF_JMP | BPF_JNE | BPF_K, kMinor, 0, 1, static_cast<int32_t>(rule.minor)));
  }
  for (size_t i = 0; i < tests.size(); i++) {
    // Past the rest of the tests and the two instructions of the verdict.
    if (BPF_CLASS(tests[i].code) == BPF_JMP) {
      tests[i].off = static_cast<int16_t>(tests.size() - 1 - i + 2);
    }
    program->push_back(tests[i]);
  }
  program->push_back(Instruction(BPF_ALU64 | BPF_MOV | BPF_K, kResult, 0, 0, rule.allow ? 1 : 0));
  program->push_back(Instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
}

// What ShareDevicePolicy has loaded; the descriptor belongs to the process.
struct SharedProgram {
  std::vector<struct bpf_insn> instructions;
  int fd = -1;
};
SharedProgram g_shared;

bool IsSame(const std::vector<struct bpf_insn>& one, const std::vector<struct bpf_insn>& other) {
  return one.size() == other.size() && memcmp(one.data(), other.data(), one.size() * sizeof one[0]) == 0;
}

bool Fail(const char* doing, Problem* problem) {
  *problem = DescribeFailure(Step::kDevice, doing, {"bpf", errno});
  return false;
}

}  // namespace

std::vector<struct bpf_insn> DeviceProgram(const std::vector<DeviceRule>& rules) {
  std::vector<DeviceRule> all = rules;
  all.insert(all.end(), std::begin(kDefaults), std::end(kDefaults));
  // struct bpf_cgroup_dev_ctx: access << 16 | type, major, minor.
  std::vector<struct bpf_insn> program = {
      Instruction(BPF_LDX | BPF_MEM | BPF_W, kType, 1, 0, 0),
      Instruction(BPF_LDX | BPF_MEM | BPF_W, kMajor, 1, 4, 0),
      Instruction(BPF_LDX | BPF_MEM | BPF_W, kMinor, 1, 8, 0),
      Instruction(BPF_ALU64 | BPF_MOV | BPF_X, kAccess, kType, 0, 0),
      Instruction(BPF_ALU64 | BPF_RSH | BPF_K, kAccess, 0, 0, 16),
      Instruction(BPF_ALU64 | BPF_AND | BPF_K, kType, 0, 0, 0xFFFF),
  };
  for (auto rule = all.rbegin(); rule != all.rend(); ++rule) {
    AppendRule(*rule, &program);
    // The verifier refuses what can never be reached.
    const bool is_catch_all =
        rule->type == 'a' && rule->major < 0 && rule->minor < 0 && AccessBits(*rule) == 7;
    if (is_catch_all) return program;
  }
  program.push_back(Instruction(BPF_ALU64 | BPF_MOV | BPF_K, kResult, 0, 0, 0));
  program.push_back(Instruction(BPF_JMP | BPF_EXIT, 0, 0, 0, 0));
  return program;
}

sys::UniqueFd LoadDeviceProgram(const std::vector<struct bpf_insn>& program, Problem* problem) {
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
  attributes.insns = reinterpret_cast<uint64_t>(program.data());
  attributes.insn_cnt = static_cast<uint32_t>(program.size());
  attributes.license = reinterpret_cast<uint64_t>("Apache-2.0");
  for (int attempt = 0;; ++attempt) {
    sys::UniqueFd loaded(static_cast<int>(
        ::syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes)));
    if (loaded.valid()) return loaded;
    // The verifier gives up where a signal is pending, as a child's end (kernel/bpf/verifier.c, do_check).
    if (errno != EAGAIN || attempt == kLoadAttempts) {
      Fail("load device policy", problem);
      return loaded;
    }
  }
}

int ShareDevicePolicy(std::string resources, int lowest) {
  Spec spec;
  SpecError error;
  if (!ReadResources(std::move(resources), &spec, &error)) return -1;
  Problem problem;
  g_shared.instructions = DeviceProgram(spec.device_rules);
  const sys::UniqueFd loaded = LoadDeviceProgram(g_shared.instructions, &problem);
  if (loaded.valid()) g_shared.fd = ::fcntl(loaded.get(), F_DUPFD_CLOEXEC, lowest);
  return g_shared.fd;
}

bool AttachDevicePolicy(const std::vector<DeviceRule>& rules, int cgroup, Problem* problem) {
  if (rules.empty() || AllowsAll(rules.back())) return true;
  const std::vector<struct bpf_insn> program = DeviceProgram(rules);
  const bool is_shared = g_shared.fd >= 0 && IsSame(program, g_shared.instructions);
  const sys::UniqueFd loaded = is_shared ? sys::UniqueFd() : LoadDeviceProgram(program, problem);
  if (!is_shared && !loaded.valid()) return false;
  union bpf_attr attributes;
  memset(&attributes, 0, sizeof attributes);
  attributes.target_fd = static_cast<uint32_t>(cgroup);
  attributes.attach_bpf_fd = static_cast<uint32_t>(is_shared ? g_shared.fd : loaded.get());
  attributes.attach_type = BPF_CGROUP_DEVICE;
  attributes.attach_flags = BPF_F_ALLOW_MULTI;
  if (::syscall(SYS_bpf, BPF_PROG_ATTACH, &attributes, sizeof attributes) < 0) {
    return Fail("attach device policy", problem);
  }
  return true;
}

}  // namespace runtime
