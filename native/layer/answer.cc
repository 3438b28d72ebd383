#include "layer/answer.h"

#include <stdio.h>
#include <string.h>

#include "sys/files.h"

namespace layer {

std::string Quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    if (byte == '"' || byte == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte > 0x7e) {
      char escape[8];
      snprintf(escape, sizeof escape, "\\u%04x", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + "\"";
}

int Print(const std::string& line, int code, int fd) {
  const auto written = sys::WriteAll(fd, line + "\n");
  return written ? code : 1;
}

int PrintProblem(const Problem& problem, int fd) {
  std::string line = "{\"error\":{\"code\":" + Quoted(problem.code) + ",\"message\":" + Quoted(problem.message);
  if (problem.syscall != nullptr) {
    const char* name = ::strerrorname_np(problem.error);
    line += ",\"syscall\":" + Quoted(problem.syscall);
    line += ",\"errno\":" + Quoted(name != nullptr ? name : std::to_string(problem.error));
  }
  if (!problem.entry.empty()) line += ",\"entry\":" + Quoted(problem.entry);
  return Print(line + "}}", 1, fd);
}

int PrintFailure(const char* message, const sys::Failure& failure) {
  return PrintProblem({kSystem, message, failure.op, failure.error, ""});
}

}  // namespace layer
