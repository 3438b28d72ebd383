#include "monitor/json.h"

#include <stdio.h>

namespace monitor {
namespace {

constexpr int kMaxDepth = 32;

// rapidjson writes values back recursively; without this a request of brackets would end the stack.
bool IsShallow(const char* text, size_t size) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < size; ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return false;
    } else if (c == '}' || c == ']') {
      --depth;
    }
  }
  return true;
}

// In situ with a known length: the parser otherwise relies on a terminating zero.
class BoundedInsituStream {
 public:
  typedef char Ch;
  BoundedInsituStream(char* text, size_t size) : src_(text), dst_(nullptr), head_(text), end_(text + size) {}
  Ch Peek() const { return src_ < end_ ? *src_ : '\0'; }
  Ch Take() { return src_ < end_ ? *src_++ : '\0'; }
  size_t Tell() const { return static_cast<size_t>(src_ - head_); }
  Ch* PutBegin() { return dst_ = src_; }
  void Put(Ch c) { *dst_++ = c; }
  void Flush() {}
  size_t PutEnd(Ch* begin) { return static_cast<size_t>(dst_ - begin); }

 private:
  char* src_;
  char* dst_;
  char* head_;
  char* end_;
};

}  // namespace

bool JsonFrame::Parse(char* text, size_t size) {
  if (!IsShallow(text, size)) return false;
  BoundedInsituStream stream(text, size);
  // The environment of an exec is bytes, UTF-8 or not.
  document_.ParseStream<rapidjson::kParseInsituFlag | rapidjson::kParseIterativeFlag>(stream);
  return !document_.HasParseError() && document_.IsObject();
}

const JsonValue* Params::Find(const char* name) const {
  if (object_ == nullptr || !object_->IsObject()) return nullptr;
  const auto member = object_->FindMember(name);
  if (member == object_->MemberEnd() || member->value.IsNull()) return nullptr;
  return &member->value;
}

std::string Params::OptionalString(const char* name, size_t max_size) {
  const JsonValue* const value = Find(name);
  if (value == nullptr) return {};
  // A zero byte would end a path early.
  if (!value->IsString() || value->GetStringLength() > max_size ||
      std::string_view(value->GetString(), value->GetStringLength()).find('\0') != std::string_view::npos) {
    SetWrong(name);
    return {};
  }
  return std::string(value->GetString(), value->GetStringLength());
}

std::string Params::String(const char* name, size_t max_size) {
  std::string text = OptionalString(name, max_size);
  if (text.empty()) SetWrong(name);
  return text;
}

uint64_t Params::Unsigned(const char* name, uint64_t max) {
  const JsonValue* const value = Find(name);
  if (value == nullptr || !value->IsUint64() || value->GetUint64() > max) {
    SetWrong(name);
    return 0;
  }
  return value->GetUint64();
}

bool Params::Boolean(const char* name) {
  const JsonValue* const value = Find(name);
  if (value == nullptr) return false;
  if (!value->IsBool()) SetWrong(name);
  return value->IsTrue();
}

std::vector<std::string> Params::Strings(const char* name, size_t max_count) {
  std::vector<std::string> strings;
  const JsonValue* const value = Find(name);
  if (value == nullptr || !value->IsArray() || value->Size() > max_count) {
    SetWrong(name);
    return strings;
  }
  for (const JsonValue& item : value->GetArray()) {
    if (!item.IsString()) {
      SetWrong(name);
      break;
    }
    strings.emplace_back(item.GetString(), item.GetStringLength());
  }
  return strings;
}

const JsonValue* Params::OptionalObject(const char* name) {
  const JsonValue* const value = Find(name);
  if (value != nullptr && !value->IsObject()) {
    SetWrong(name);
    return nullptr;
  }
  return value;
}

const JsonValue* Params::Object(const char* name) {
  const JsonValue* const value = OptionalObject(name);
  if (value == nullptr) SetWrong(name);
  return value;
}

void PutNs(JsonWriter* writer, int64_t ns) {
  char text[24];
  const int size = snprintf(text, sizeof text, "%lld", static_cast<long long>(ns));
  writer->String(text, static_cast<rapidjson::SizeType>(size));
}

std::string ToJson(const JsonValue& value) {
  rapidjson::StringBuffer buffer;
  JsonWriter writer(buffer);
  value.Accept(writer);
  return std::string(buffer.GetString(), buffer.GetSize());
}

std::string Base64(std::string_view bytes) {
  static const char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t i = 0; i < bytes.size(); i += 3) {
    const size_t left = bytes.size() - i;
    const auto byte = [&](size_t k) { return k < left ? static_cast<uint8_t>(bytes[i + k]) : 0u; };
    const unsigned group = byte(0) << 16 | byte(1) << 8 | byte(2);
    text += kDigits[group >> 18];
    text += kDigits[group >> 12 & 63];
    text += left > 1 ? kDigits[group >> 6 & 63] : '=';
    text += left > 2 ? kDigits[group & 63] : '=';
  }
  return text;
}

}  // namespace monitor
