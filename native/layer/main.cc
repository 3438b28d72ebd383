// minke-layer: a layer's bytes on standard input, its tree in a directory, one JSON line on
// standard output.
//
//   minke-layer --dest DIR [--expect-digest D] [--expect-diffid D] [--max-bytes N] [--max-entries N]
//   minke-layer --syncfs DIR     syncfs(2) of the file system that holds DIR
//   minke-layer --remove PATH    removes a tree, whatever its names
//
// Success: {"digest","diffId","compressedBytes","bytes","entries","compression","unsupportedXattrs"}, exit 0.
// Failure: {"error":{"code","message","syscall","errno","entry"}}, exit 1; exit 2 for bad usage.
// What a failed run leaves in DIR is the caller's to remove. Text is latin1 of the raw bytes.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "layer/applier.h"
#include "layer/layer_stream.h"
#include "layer/remove_tree.h"
#include "layer/tar_reader.h"
#include "sys/files.h"

namespace {

struct Arguments {
  std::string dest, syncfs, remove, expect_digest, expect_diff_id;
  layer::Limits limits;
};

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

int Print(const std::string& line, int code) {
  const auto written = sys::WriteAll(STDOUT_FILENO, line + "\n");
  return written ? code : 1;
}

int PrintProblem(const layer::Problem& problem) {
  std::string line = "{\"error\":{\"code\":" + Quoted(problem.code) + ",\"message\":" + Quoted(problem.message);
  if (problem.syscall != nullptr) {
    const char* name = ::strerrorname_np(problem.error);
    line += ",\"syscall\":" + Quoted(problem.syscall);
    line += ",\"errno\":" + Quoted(name != nullptr ? name : std::to_string(problem.error));
  }
  if (!problem.entry.empty()) line += ",\"entry\":" + Quoted(problem.entry);
  return Print(line + "}}", 1);
}

int PrintFailure(const char* message, const sys::Failure& failure) {
  return PrintProblem({layer::kSystem, message, failure.op, failure.error, ""});
}

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    const auto number = layer::ParseDecimal(value);
    if (name == "--dest") arguments->dest = value;
    else if (name == "--syncfs") arguments->syncfs = value;
    else if (name == "--remove") arguments->remove = value;
    else if (name == "--expect-digest") arguments->expect_digest = value;
    else if (name == "--expect-diffid") arguments->expect_diff_id = value;
    else if (name == "--max-bytes" && number) arguments->limits.max_bytes = *number;
    else if (name == "--max-entries" && number) arguments->limits.max_entries = *number;
    else return false;
  }
  const int verbs = !arguments->dest.empty() + !arguments->syncfs.empty() + !arguments->remove.empty();
  return argc % 2 == 1 && verbs == 1;
}

int SyncFileSystem(const std::string& path) {
  auto dir = sys::open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!dir) return PrintFailure("open the directory", dir.failure());
  if (::syncfs(dir->get()) < 0) return PrintFailure("sync the file system", sys::FailedWithErrno("syncfs"));
  return Print("{}", 0);
}

int Remove(std::string path) {
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash + 1 == path.size()) return 2;
  const std::string parent = slash == 0 ? "/" : path.substr(0, slash);
  auto dir = sys::open_at(AT_FDCWD, parent.c_str(), O_RDONLY | O_DIRECTORY);
  if (!dir) return dir.failure().error == ENOENT ? Print("{}", 0) : PrintFailure("open the directory", dir.failure());
  const auto removed = layer::RemoveTree(dir->get(), path.c_str() + slash + 1);
  return removed ? Print("{}", 0) : PrintFailure("remove the tree", removed.failure());
}

int Unpack(const Arguments& arguments) {
  auto root = sys::open_at(AT_FDCWD, arguments.dest.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!root) return PrintFailure("open the layer's directory", root.failure());
  layer::LayerStream stream(STDIN_FILENO, arguments.limits.max_bytes);
  layer::TarReader reader(&stream, &arguments.limits);
  layer::Applier applier(root->get(), &arguments.limits);
  layer::ApplyFacts applied;
  layer::Problem problem;
  if (!stream.Start(&problem) || !applier.Run(&reader, &applied, &problem)) return PrintProblem(problem);

  const layer::StreamFacts& facts = stream.facts();
  if (!arguments.expect_digest.empty() && facts.digest != arguments.expect_digest) {
    return PrintProblem({layer::kMismatch, "digest is " + facts.digest + ", expected " + arguments.expect_digest, nullptr, 0, ""});
  }
  if (!arguments.expect_diff_id.empty() && facts.diff_id != arguments.expect_diff_id) {
    return PrintProblem({layer::kMismatch, "diffID is " + facts.diff_id + ", expected " + arguments.expect_diff_id, nullptr, 0, ""});
  }
  return Print("{\"digest\":" + Quoted(facts.digest) + ",\"diffId\":" + Quoted(facts.diff_id) +
                   ",\"compressedBytes\":" + std::to_string(facts.compressed_bytes) +
                   ",\"bytes\":" + std::to_string(facts.bytes) + ",\"entries\":" + std::to_string(applied.entries) +
                   ",\"compression\":" + Quoted(facts.compression) +
                   ",\"unsupportedXattrs\":" + std::to_string(applied.unsupported_xattrs) + "}",
               0);
}

}  // namespace

int main(int argc, char** argv) {
  ::umask(0);
  ::signal(SIGPIPE, SIG_IGN);
  // A daemon that is killed takes its unpacking with it: the next one removes what is half made,
  // and must not meet somebody who still writes there.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  Arguments arguments;
  if (!ParseArguments(argc, argv, &arguments)) {
    fputs("usage: minke-layer --dest DIR [--expect-digest D] [--expect-diffid D] [--max-bytes N] [--max-entries N]\n"
          "       minke-layer --syncfs DIR | --remove PATH\n", stderr);
    return 2;
  }
  if (!arguments.syncfs.empty()) return SyncFileSystem(arguments.syncfs);
  if (!arguments.remove.empty()) return Remove(arguments.remove);
  return Unpack(arguments);
}
