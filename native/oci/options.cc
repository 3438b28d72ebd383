#include "oci/options.h"

#include <fcntl.h>
#include <stdlib.h>

#include <string_view>

namespace oci {
namespace {

// The first name of the entry "bundle|b" that has `name` among its names; null where none has.
const char* FindName(const std::vector<const char*>& entries, std::string_view name,
                     std::string* canonical) {
  for (const char* entry : entries) {
    std::string_view rest = entry;
    *canonical = rest.substr(0, rest.find('|'));
    while (!rest.empty()) {
      const size_t bar = rest.find('|');
      if (rest.substr(0, bar) == name) return entry;
      rest = bar == std::string_view::npos ? std::string_view() : rest.substr(bar + 1);
    }
  }
  return nullptr;
}

}  // namespace

Options::Options(std::vector<const char*> with_value, std::vector<const char*> flags,
                 bool stop_at_operand)
    : with_value_(std::move(with_value)),
      flags_(std::move(flags)),
      stop_at_operand_(stop_at_operand) {}

bool Options::Parse(const std::vector<std::string>& arguments, std::string* problem) {
  for (size_t i = 0; i < arguments.size(); i++) {
    const std::string& argument = arguments[i];
    if (argument == "--") {
      operands_.insert(operands_.end(), arguments.begin() + static_cast<long>(i) + 1,
                       arguments.end());
      return true;
    }
    if (argument.size() < 2 || argument[0] != '-') {
      if (stop_at_operand_) {
        operands_.assign(arguments.begin() + static_cast<long>(i), arguments.end());
        return true;
      }
      operands_.push_back(argument);
      continue;
    }
    std::string name = argument.substr(argument[1] == '-' ? 2 : 1);
    const size_t equals = name.find('=');
    const bool has_value = equals != std::string::npos;
    std::string value = has_value ? name.substr(equals + 1) : "";
    if (has_value) name.resize(equals);
    std::string canonical;
    if (FindName(flags_, name, &canonical) != nullptr) {
      if (!has_value || value == "true") given_.push_back({canonical, "true"});
      continue;
    }
    if (FindName(with_value_, name, &canonical) == nullptr) {
      *problem = "unknown option \"" + argument + "\"";
      return false;
    }
    if (!has_value) {
      if (i + 1 == arguments.size()) {
        *problem = "option \"" + argument + "\" lacks its value";
        return false;
      }
      value = arguments[++i];
    }
    given_.push_back({canonical, std::move(value)});
  }
  return true;
}

bool Options::Has(const char* name) const {
  for (const Given& given : given_) {
    if (given.name == name) return true;
  }
  return false;
}

std::string Options::Value(const char* name, const char* fallback) const {
  for (auto given = given_.rbegin(); given != given_.rend(); ++given) {
    if (given->name == name) return given->value;
  }
  return fallback;
}

std::vector<std::string> Options::Values(const char* name) const {
  std::vector<std::string> values;
  for (const Given& given : given_) {
    if (given.name == name) values.push_back(given.value);
  }
  return values;
}

bool PreservedFds(const Options& options, int* count, std::string* problem) {
  const std::string text = options.Value("preserve-fds", "0");
  char* end = nullptr;
  const long number = ::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end != '\0' || number < 0 || number > 65536) {
    *problem = "--preserve-fds \"" + text + "\" is not a number of descriptors";
    return false;
  }
  *count = static_cast<int>(number);
  for (int fd = 3; fd < 3 + *count; fd++) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    *problem = "--preserve-fds " + text + ": descriptor " + std::to_string(fd) + " is not open";
    return false;
  }
  return true;
}

}  // namespace oci
