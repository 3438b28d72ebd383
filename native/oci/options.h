// Options of a command: "--name value", "--name=value", "-n value", flags, then operands.
#pragma once

#include <string>
#include <vector>

namespace oci {

class Options {
 public:
  // names: what takes a value, and what is a flag; aliases as "bundle|b". Stops at the first
  // operand where `stop_at_operand`, so that a command's own options stay its own.
  Options(std::vector<const char*> with_value, std::vector<const char*> flags,
          bool stop_at_operand);

  // False: *problem names the option that is not known or lacks its value.
  [[nodiscard]] bool Parse(const std::vector<std::string>& arguments, std::string* problem);

  bool Has(const char* name) const;
  // The last value given, or the fallback.
  std::string Value(const char* name, const char* fallback = "") const;
  std::vector<std::string> Values(const char* name) const;
  const std::vector<std::string>& operands() const { return operands_; }

 private:
  struct Given {
    std::string name, value;
  };
  std::vector<const char*> with_value_, flags_;
  bool stop_at_operand_;
  std::vector<Given> given_;
  std::vector<std::string> operands_;
};

// --preserve-fds N: descriptors 3 .. 3+N-1, all of which must be open. Else one that this
// program opens for itself would be among them, and the container would get it.
[[nodiscard]] bool PreservedFds(const Options& options, int* count, std::string* problem);

}  // namespace oci
