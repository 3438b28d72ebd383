// minke-layer: a layer's bytes on standard input, its tree in a directory, one JSON line on
// standard output.
//
//   minke-layer --dest DIR [--record DIR] [--expect-digest D] [--expect-diffid D] [--max-bytes N] [--max-entries N]
//   minke-layer --emit DIR [--expect-diffid D]   the archive of a stored layer on standard output
//   minke-layer --verify DIR                     compares a stored layer with its record
//   minke-layer --usage DIR                      what DIR and each of its children occupy
//   minke-layer --sum DIR [--sum DIR]…           what each DIR occupies with all below; null: it is not there
//   minke-layer --compress zstd | --decompress auto   standard input to standard output
//   minke-layer --syncfs DIR     syncfs(2) of the file system that holds DIR
//   minke-layer --remove PATH    removes a tree, whatever its names
//
// --record: DIR is the parent of --dest and gets the record of the archive (tar_record.h).
// --background 1: with the lowest priority for processor and disk.
// Success: {"digest","diffId","compressedBytes","bytes","entries","compression","unsupportedXattrs"}, exit 0.
// Failure: {"error":{"code","message","syscall","errno","entry"}}, exit 1; exit 2 for bad usage; on
// standard error where standard output carries bytes. What a failed run leaves in DIR is the
// caller's to remove. Text is latin1 of the raw bytes.
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

#include "layer/answer.h"
#include "layer/applier.h"
#include "layer/archive_replay.h"
#include "layer/layer_stream.h"
#include "layer/recompress.h"
#include "layer/remove_tree.h"
#include "layer/tar_reader.h"
#include "layer/usage.h"
#include "layer/verify.h"
#include "sys/files.h"

namespace {

using layer::Print;
using layer::PrintFailure;
using layer::PrintProblem;
using layer::Quoted;

struct Arguments {
  std::string dest, syncfs, remove, emit, verify, usage, compress, decompress;
  std::string record, expect_digest, expect_diff_id, background;
  std::vector<std::string> sums;
  layer::Limits limits;
};

bool ParseArguments(int argc, char** argv, Arguments* arguments) {
  const std::pair<const char*, std::string*> texts[] = {
      {"--dest", &arguments->dest},         {"--syncfs", &arguments->syncfs},
      {"--remove", &arguments->remove},     {"--emit", &arguments->emit},
      {"--verify", &arguments->verify},     {"--usage", &arguments->usage},
      {"--compress", &arguments->compress}, {"--decompress", &arguments->decompress},
      {"--record", &arguments->record},     {"--expect-digest", &arguments->expect_digest},
      {"--background", &arguments->background}, {"--expect-diffid", &arguments->expect_diff_id}};
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i], value = argv[i + 1];
    const auto number = layer::ParseDecimal(value);
    bool known = false;
    for (const auto& [option, to] : texts) {
      if (name != option) continue;
      *to = value;
      known = true;
    }
    if (known) continue;
    if (name == "--sum") arguments->sums.push_back(value);
    else if (name == "--max-bytes" && number) arguments->limits.max_bytes = *number;
    else if (name == "--max-entries" && number) arguments->limits.max_entries = *number;
    else return false;
  }
  const Arguments& a = *arguments;
  const int verbs = !a.dest.empty() + !a.syncfs.empty() + !a.remove.empty() + !a.emit.empty() + !a.verify.empty() +
                    !a.usage.empty() + !a.sums.empty() + !a.compress.empty() + !a.decompress.empty();
  if (!a.compress.empty() && a.compress != "zstd") return false;
  return argc % 2 == 1 && verbs == 1;
}

// ioprio_set(2): the class idle gets the disk when nobody else wants it. Both are hints.
void GoToBackground() {
  constexpr int kWhoProcess = 1, kClassIdle = 3 << 13;
  ::syscall(SYS_ioprio_set, kWhoProcess, 0, kClassIdle);
  ::setpriority(PRIO_PROCESS, 0, 19);
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

std::string Number(const char* name, uint64_t value) { return std::string(",\"") + name + "\":" + std::to_string(value); }

int Unpack(const Arguments& arguments) {
  auto root = sys::open_at(AT_FDCWD, arguments.dest.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  if (!root) return PrintFailure("open the layer's directory", root.failure());
  layer::Problem problem;
  std::optional<layer::RecordWriter> record;
  sys::UniqueFd directory;
  if (!arguments.record.empty()) {
    auto opened = sys::open_at(AT_FDCWD, arguments.record.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
    if (!opened) return PrintFailure("open the directory of the record", opened.failure());
    directory = std::move(*opened);
    record.emplace();
    if (!record->Open(directory.get(), &problem)) return PrintProblem(problem);
  }
  layer::LayerStream stream(STDIN_FILENO, arguments.limits.max_bytes);
  layer::TarReader reader(&stream, &arguments.limits);
  if (record) reader.set_tap(&*record);
  layer::Applier applier(root->get(), &arguments.limits, record ? &*record : nullptr);
  layer::ApplyFacts applied;
  if (!stream.Start(&problem) || !applier.Run(&reader, &applied, &problem)) return PrintProblem(problem);

  const layer::StreamFacts& facts = stream.facts();
  if (!arguments.expect_digest.empty() && facts.digest != arguments.expect_digest) {
    return PrintProblem({layer::kMismatch, "digest is " + facts.digest + ", expected " + arguments.expect_digest, nullptr, 0, ""});
  }
  if (!arguments.expect_diff_id.empty() && facts.diff_id != arguments.expect_diff_id) {
    return PrintProblem({layer::kMismatch, "diffID is " + facts.diff_id + ", expected " + arguments.expect_diff_id, nullptr, 0, ""});
  }
  std::string line = "{\"digest\":" + Quoted(facts.digest) + ",\"diffId\":" + Quoted(facts.diff_id) +
                     Number("compressedBytes", facts.compressed_bytes) + Number("bytes", facts.bytes) +
                     Number("entries", applied.entries) + ",\"compression\":" + Quoted(facts.compression) +
                     Number("unsupportedXattrs", applied.unsupported_xattrs);
  if (record) line += ",\"recordDigest\":" + Quoted(record->digest()) + Number("recordBytes", record->bytes());
  return Print(line + "}", 0);
}

int Emit(const Arguments& arguments) {
  auto directory = sys::open_at(AT_FDCWD, arguments.emit.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  layer::Problem problem;
  if (!directory) {
    return PrintProblem({layer::kDamaged, "open the layer", directory.failure().op, directory.failure().error, ""}, STDERR_FILENO);
  }
  layer::ArchiveReplay replay(directory->get());
  replay.on_bytes = [](const uint8_t* bytes, size_t size) {
    return sys::WriteAll(STDOUT_FILENO, {reinterpret_cast<const char*>(bytes), size}).ok();
  };
  layer::ReplayFacts facts;
  if (!replay.Run(&facts, &problem)) return PrintProblem(problem, STDERR_FILENO);
  if (arguments.expect_diff_id.empty() || facts.diff_id == arguments.expect_diff_id) return 0;
  problem = {layer::kDamaged, "diffID is " + facts.diff_id + ", expected " + arguments.expect_diff_id, nullptr, 0, ""};
  return PrintProblem(problem, STDERR_FILENO);
}

int Verify(const Arguments& arguments) {
  auto directory = sys::open_at(AT_FDCWD, arguments.verify.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  layer::VerifyFacts facts;
  layer::Problem problem;
  if (!directory && directory.failure().error == ENOENT) {
    facts.damage_count = 1;
    facts.damage.push_back({"missing", "", "the layer is gone"});
  } else if (!directory) {
    return PrintFailure("open the layer", directory.failure());
  } else if (!layer::VerifyLayer(directory->get(), &facts, &problem)) {
    return PrintProblem(problem);
  }
  std::string line = "{\"diffId\":" + Quoted(facts.diff_id) + ",\"recordDigest\":" + Quoted(facts.record_digest) +
                     Number("bytes", facts.bytes) + Number("entries", facts.entries) +
                     Number("damageCount", facts.damage_count) + ",\"damage\":[";
  for (const layer::Damage& damage : facts.damage) {
    if (line.back() != '[') line += ',';
    line += "{\"kind\":" + Quoted(damage.kind) + ",\"path\":" + Quoted(damage.path) + ",\"message\":" + Quoted(damage.message) + "}";
  }
  return Print(line + "]}", 0);
}

int MeasureUsage(const std::string& path) {
  layer::TreeUsage usage;
  layer::Problem problem;
  if (!layer::MeasureTree(path, &usage, &problem)) return PrintProblem(problem);
  std::string line = "{\"bytes\":" + std::to_string(usage.own.bytes) + Number("inodes", usage.own.inodes) + ",\"children\":[";
  for (const layer::NamedUsage& child : usage.children) {
    if (line.back() != '[') line += ',';
    line += "{\"name\":" + Quoted(child.name) + ",\"isDirectory\":" + (child.is_directory ? "true" : "false") +
            Number("bytes", child.usage.bytes) + Number("inodes", child.usage.inodes) + "}";
  }
  return Print(line + "]}", 0);
}

int SumUsage(const std::vector<std::string>& paths) {
  std::string line = "{\"sums\":[";
  for (const std::string& path : paths) {
    if (line.back() != '[') line += ',';
    layer::Usage usage;
    layer::Problem problem;
    if (layer::SumTree(path, &usage, &problem)) {
      line += "{\"bytes\":" + std::to_string(usage.bytes) + Number("inodes", usage.inodes) + "}";
    } else if (problem.error == ENOENT) {
      line += "null";
    } else {
      return PrintProblem(problem);
    }
  }
  return Print(line + "]}", 0);
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
    fputs("usage: minke-layer --dest DIR [--record DIR] [--expect-digest D] [--expect-diffid D] [--max-bytes N] [--max-entries N]\n"
          "       minke-layer --emit DIR [--expect-diffid D] | --verify DIR | --usage DIR | --sum DIR [--sum DIR]...\n"
          "       minke-layer --compress zstd | --decompress auto | --syncfs DIR | --remove PATH\n", stderr);
    return 2;
  }
  if (!arguments.background.empty()) GoToBackground();
  if (!arguments.syncfs.empty()) return SyncFileSystem(arguments.syncfs);
  if (!arguments.remove.empty()) return Remove(arguments.remove);
  if (!arguments.emit.empty()) return Emit(arguments);
  if (!arguments.verify.empty()) return Verify(arguments);
  if (!arguments.usage.empty()) return MeasureUsage(arguments.usage);
  if (!arguments.sums.empty()) return SumUsage(arguments.sums);
  if (!arguments.compress.empty()) return layer::CompressStream();
  if (!arguments.decompress.empty()) return layer::DecompressStream(arguments.limits.max_bytes);
  return Unpack(arguments);
}
