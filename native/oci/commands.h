// The runc command line: global options, then one command.
#pragma once

#include <string>
#include <vector>

namespace oci {

struct GlobalOptions {
  std::string root = "/run/minke-oci";
  std::string log;  // file for errors; "" = standard error only
  bool log_json = false;
  bool debug = false;
};

using Arguments = std::vector<std::string>;

// Runs the program. Returns the exit status: 0, 1 for a failure, or the container's own.
int OciMain(int argc, char** argv);

// Reports a failure on standard error and in the log file, in the log format. Returns 1.
int Complain(const GlobalOptions& global, const std::string& message);

// What goes on without something: in the log file, or on standard error where there is none.
void Warn(const GlobalOptions& global, const std::string& message);

int CommandCreate(const GlobalOptions& global, const Arguments& arguments, bool is_run);
int CommandStart(const GlobalOptions& global, const Arguments& arguments);
int CommandState(const GlobalOptions& global, const Arguments& arguments);
int CommandKill(const GlobalOptions& global, const Arguments& arguments);
int CommandDelete(const GlobalOptions& global, const Arguments& arguments);
int CommandList(const GlobalOptions& global, const Arguments& arguments);
int CommandExec(const GlobalOptions& global, const Arguments& arguments);
int CommandPs(const GlobalOptions& global, const Arguments& arguments);
int CommandFreeze(const GlobalOptions& global, const Arguments& arguments, bool is_pause);
int CommandUpdate(const GlobalOptions& global, const Arguments& arguments);
int CommandEvents(const GlobalOptions& global, const Arguments& arguments);
int CommandFeatures(const GlobalOptions& global, const Arguments& arguments);
int CommandSpec(const GlobalOptions& global, const Arguments& arguments);

}  // namespace oci
