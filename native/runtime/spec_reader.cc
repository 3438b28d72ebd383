// The spec's top level: version, root, mounts, hooks, annotations.
#include "runtime/spec_reader.h"

#include <sched.h>
#include <string.h>

namespace runtime {
namespace {

constexpr size_t kMaxMappings = 340;  // user_namespaces(7): lines of uid_map

void ReadMount(const JsonNode& node, Spec* spec) {
  MountSpec mount;
  const JsonNode destination = node["destination"];
  mount.destination = destination.RequiredString();
  mount.type = node["type"].String();
  mount.source = node["source"].String();
  mount.options = node["options"].Strings();
  const JsonNode uids = node["uidMappings"];
  const JsonNode gids = node["gidMappings"];
  mount.uid_mappings = ReadIdMappings(uids);
  mount.gid_mappings = ReadIdMappings(gids);
  if (uids.Has() != gids.Has()) node.Refuse("has only one of uidMappings and gidMappings");
  spec->mounts.push_back(std::move(mount));
}

void ReadHookList(const JsonNode& list, std::vector<HookSpec>* out) {
  if (!list.Has()) return;
  list.ForEach([&](const JsonNode& node) {
    HookSpec hook;
    const JsonNode path = node["path"];
    hook.path = path.RequiredString();
    if (hook.path[0] != '/') path.Refuse("is not an absolute path");
    hook.args = node["args"].Strings();
    hook.env = node["env"].Strings();
    const JsonNode timeout = node["timeout"];
    hook.timeout_s = static_cast<int>(timeout.Integer(1, 1 << 30, 0));
    out->push_back(std::move(hook));
  });
}

void ReadHooks(const JsonNode& hooks, Spec* spec) {
  ReadHookList(hooks["prestart"], &spec->prestart);
  ReadHookList(hooks["createRuntime"], &spec->create_runtime);
  ReadHookList(hooks["createContainer"], &spec->create_container);
  ReadHookList(hooks["startContainer"], &spec->start_container);
  ReadHookList(hooks["poststart"], &spec->poststart);
  ReadHookList(hooks["poststop"], &spec->poststop);
}

void ReadVersion(const JsonNode& node, Spec* spec) {
  spec->oci_version = node.RequiredString();
  if (strncmp(spec->oci_version, "1.", 2) != 0) {
    node.Refuse("is not a version 1.x of the runtime spec");
  }
}

void ReadRoot(const JsonNode& root, Spec* spec) {
  const JsonNode path = root["path"];
  spec->root_path = path.RequiredString();
  spec->root_readonly = root["readonly"].Bool();
}

void ReadTop(const JsonNode& top, Spec* spec) {
  ReadVersion(top["ociVersion"], spec);
  ReadRoot(top["root"], spec);
  const JsonNode process = top["process"];
  if (process.Has()) {
    spec->has_process = true;
    ReadProcessObject(process, &spec->process);
  }
  spec->hostname = top["hostname"].String();
  spec->domainname = top["domainname"].String();
  const JsonNode mounts = top["mounts"];
  if (mounts.Has()) mounts.ForEach([&](const JsonNode& mount) { ReadMount(mount, spec); });
  ReadHooks(top["hooks"], spec);
  spec->annotations = top["annotations"].StringMap();
  ReadLinux(top["linux"], spec);
  if (spec->hostname[0] != '\0' && spec->Namespace(CLONE_NEWUTS) == nullptr) {
    top["hostname"].Refuse("is set, but there is no uts namespace");
  }
  if (spec->domainname[0] != '\0' && spec->Namespace(CLONE_NEWUTS) == nullptr) {
    top["domainname"].Refuse("is set, but there is no uts namespace");
  }
}

bool Finish(const JsonReader& reader, std::shared_ptr<SpecDocument> document, Spec* spec) {
  spec->document = std::move(document);
  return !reader.failed();
}

}  // namespace

std::vector<IdMapping> ReadIdMappings(const JsonNode& node) {
  std::vector<IdMapping> mappings;
  if (!node.Has()) return mappings;
  node.ForEach([&](const JsonNode& entry) {
    const JsonNode size = entry["size"];
    IdMapping mapping;
    mapping.container_id = static_cast<uint32_t>(entry["containerID"].Unsigned(UINT32_MAX - 1));
    mapping.host_id = static_cast<uint32_t>(entry["hostID"].Unsigned(UINT32_MAX - 1));
    mapping.size = static_cast<uint32_t>(size.Unsigned(UINT32_MAX));
    if (mapping.size == 0) size.Refuse("is missing or 0");
    mappings.push_back(mapping);
  });
  if (mappings.size() > kMaxMappings) node.Refuse("has more than 340 mappings");
  return mappings;
}

void ReadBitList(const JsonNode& node, BitList* list) {
  const char* at = node.String();
  if (at[0] == '\0') return;
  constexpr unsigned kWordBits = 8 * sizeof(unsigned long);
  const auto number = [&at](unsigned* value) {
    if (*at < '0' || *at > '9') return false;
    for (*value = 0; *at >= '0' && *at <= '9'; at++) {
      *value = *value * 10 + static_cast<unsigned>(*at - '0');
      if (*value >= kMaxBits) return false;
    }
    return true;
  };
  for (;;) {
    unsigned first = 0, last = 0;
    bool ok = number(&first);
    last = first;
    if (ok && *at == '-') {
      at++;
      ok = number(&last) && last >= first;
    }
    if (!ok || (*at != '\0' && *at != ',')) return node.Refuse("is not a list such as 0-3,7");
    for (unsigned bit = first; bit <= last; bit++) {
      list->words[bit / kWordBits] |= 1UL << (bit % kWordBits);
    }
    if (*at == '\0') break;
    at++;
  }
  list->bytes = sizeof list->words;
}

bool ReadSpec(std::string text, Spec* spec, SpecError* error) {
  auto document = std::make_shared<SpecDocument>();
  if (!ParseDocument(std::move(text), document.get(), error)) return false;
  JsonReader reader(error);
  ReadTop(reader.Root(document->json), spec);
  return Finish(reader, std::move(document), spec);
}

bool ReadProcess(std::string text, Spec* holder, SpecError* error) {
  auto document = std::make_shared<SpecDocument>();
  if (!ParseDocument(std::move(text), document.get(), error)) return false;
  JsonReader reader(error);
  holder->has_process = true;
  ReadProcessObject(reader.Root(document->json), &holder->process);
  return Finish(reader, std::move(document), holder);
}

bool ReadResources(std::string text, Spec* holder, SpecError* error) {
  auto document = std::make_shared<SpecDocument>();
  if (!ParseDocument(std::move(text), document.get(), error)) return false;
  JsonReader reader(error);
  ReadResources(reader.Root(document->json), holder);
  return Finish(reader, std::move(document), holder);
}

}  // namespace runtime
