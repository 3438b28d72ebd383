#include "runtime/json_reader.h"

#include <string.h>

namespace runtime {
namespace {

constexpr size_t kMaxElements = 65536;

// Nesting of the text, without parsing: brackets outside of strings.
bool IsTooDeep(const std::string& text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); i++) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') i++;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kMaxSpecDepth) return true;
    } else if (c == '}' || c == ']') {
      depth--;
    }
  }
  return false;
}

}  // namespace

bool ParseDocument(std::string text, SpecDocument* document, SpecError* error) {
  if (text.size() > kMaxSpecBytes) {
    *error = {"", "is larger than 8 MiB"};
    return false;
  }
  if (text.find('\0') != std::string::npos) {
    *error = {"", "contains a zero byte"};
    return false;
  }
  if (IsTooDeep(text)) {
    *error = {"", "is nested deeper than 64 levels"};
    return false;
  }
  document->text = std::move(text);
  // No check of the encoding: environment values, arguments and paths are bytes to the kernel, and
  // CRI's KeyValue.value is bytes. What is not UTF-8 is passed on as it is.
  // Not kParseFullPrecisionFlag: no field is a fraction, and its code shifts by a wrong exponent for
  // a number like 0e244.
  constexpr unsigned kFlags = rapidjson::kParseInsituFlag | rapidjson::kParseIterativeFlag;
  document->json.ParseInsitu<kFlags>(document->text.data());
  if (document->json.HasParseError()) {
    *error = {"", "is not valid JSON at byte " + std::to_string(document->json.GetErrorOffset())};
    return false;
  }
  if (!document->json.IsObject()) {
    *error = {"", "is not a JSON object"};
    return false;
  }
  return true;
}

JsonNode JsonNode::operator[](const char* key) const {
  const rapidjson::Value* found = nullptr;
  if (value_ != nullptr && !reader_->failed_) {
    if (!value_->IsObject()) {
      Refuse("is not an object");
    } else if (auto member = value_->FindMember(key);
               member != value_->MemberEnd() && !member->value.IsNull()) {
      found = &member->value;
    }
  }
  return JsonNode(reader_, found, this, key, 0);
}

const char* JsonNode::String(const char* fallback) const {
  if (value_ == nullptr || reader_->failed_) return fallback;
  if (!value_->IsString()) {
    Refuse("is not a string");
    return fallback;
  }
  if (strlen(value_->GetString()) != value_->GetStringLength()) {
    Refuse("contains a zero byte");
    return fallback;
  }
  return value_->GetString();
}

const char* JsonNode::RequiredString() const {
  const char* text = String();
  if (!reader_->failed_ && text[0] == '\0') Refuse("is missing or empty");
  return text;
}

std::vector<const char*> JsonNode::Keys() const {
  std::vector<const char*> keys;
  if (value_ == nullptr || reader_->failed_) return keys;
  if (!value_->IsObject()) {
    Refuse("is not an object");
    return keys;
  }
  for (const auto& member : value_->GetObject()) {
    if (strlen(member.name.GetString()) != member.name.GetStringLength()) Refuse("has a key with a zero byte");
    keys.push_back(member.name.GetString());
  }
  return keys;
}

bool JsonNode::Bool(bool fallback) const {
  if (value_ == nullptr || reader_->failed_) return fallback;
  if (!value_->IsBool()) {
    Refuse("is not true or false");
    return fallback;
  }
  return value_->GetBool();
}

int64_t JsonNode::Integer(int64_t lowest, int64_t highest, int64_t fallback) const {
  if (value_ == nullptr || reader_->failed_) return fallback;
  if (!value_->IsInt64() || value_->GetInt64() < lowest || value_->GetInt64() > highest) {
    Refuse(("is not an integer from " + std::to_string(lowest) + " to " + std::to_string(highest))
               .c_str());
    return fallback;
  }
  return value_->GetInt64();
}

uint64_t JsonNode::Unsigned(uint64_t highest, uint64_t fallback) const {
  if (value_ == nullptr || reader_->failed_) return fallback;
  if (!value_->IsUint64() || value_->GetUint64() > highest) {
    Refuse(("is not an integer from 0 to " + std::to_string(highest)).c_str());
    return fallback;
  }
  return value_->GetUint64();
}

std::vector<const char*> JsonNode::Strings() const {
  std::vector<const char*> all;
  if (value_ == nullptr || !ExpectArray()) return all;
  all.reserve(value_->Size());
  ForEach([&](const JsonNode& element) {
    if (!element.value()->IsString()) return element.Refuse("is not a string");
    all.push_back(element.String());
  });
  return all;
}

std::vector<SysctlSpec> JsonNode::StringMap() const {
  std::vector<SysctlSpec> all;
  if (value_ == nullptr || reader_->failed_) return all;
  if (!value_->IsObject()) {
    Refuse("is not an object");
    return all;
  }
  for (const auto& member : value_->GetObject()) {
    const JsonNode node(reader_, &member.value, this, member.name.GetString(), 0);
    if (strlen(member.name.GetString()) != member.name.GetStringLength()) {
      Refuse("has a key with a zero byte");
      break;
    }
    all.push_back({member.name.GetString(), node.String()});
  }
  return all;
}

bool JsonNode::ExpectArray() const {
  if (value_ == nullptr || reader_->failed_) return false;
  if (!value_->IsArray()) {
    Refuse("is not an array");
    return false;
  }
  if (value_->Size() > kMaxElements) {
    Refuse("has more than 65536 elements");
    return false;
  }
  return true;
}

void JsonNode::Refuse(const char* message) const {
  if (reader_->failed_) return;
  reader_->failed_ = true;
  reader_->error_->json_path = Path();
  reader_->error_->message = message;
}

std::string JsonNode::Path() const {
  if (parent_ == nullptr) return "";
  std::string path = parent_->Path();
  if (key_ == nullptr) return path + "[" + std::to_string(index_) + "]";
  if (!path.empty()) path += '.';
  return path + key_;
}

}  // namespace runtime
