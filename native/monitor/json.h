// JSON of the protocol: reading requests in place with limits, and writing frames.
//
// Bytes come from a client that may be wrong or hostile, so nothing is read without its type and
// size having been checked, and nesting is limited before the parser sees the text.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <rapidjson/document.h>
#include <rapidjson/stringbuffer.h>
#include <rapidjson/writer.h>

#include <string>
#include <string_view>
#include <vector>

namespace monitor {

using JsonValue = rapidjson::Value;
using JsonWriter = rapidjson::Writer<rapidjson::StringBuffer>;

// A parsed frame. The text is overwritten by parsing and must outlive this.
class JsonFrame {
 public:
  // False for what is not one JSON object of UTF-8 with at most 32 levels.
  bool Parse(char* text, size_t size);
  const JsonValue& root() const { return document_; }

 private:
  rapidjson::Document document_;
};

// Reads members of one object and remembers the first that is missing or wrong.
class Params {
 public:
  explicit Params(const JsonValue* object) : object_(object) {}

  std::string String(const char* name, size_t max_size = 4096);
  std::string OptionalString(const char* name, size_t max_size = 4096);  // absent, null: ""
  uint64_t Unsigned(const char* name, uint64_t max);
  bool Boolean(const char* name);                      // absent: false
  std::vector<std::string> Strings(const char* name, size_t max_count);
  const JsonValue* Object(const char* name);           // nullptr and remembered where missing
  const JsonValue* OptionalObject(const char* name);   // absent, null: nullptr

  bool ok() const { return wrong_.empty(); }
  // Name of the first member that is missing, of a wrong type or too large.
  const std::string& wrong() const { return wrong_; }

 private:
  const JsonValue* Find(const char* name) const;
  void SetWrong(const char* name) {
    if (wrong_.empty()) wrong_ = name;
  }

  const JsonValue* object_;
  std::string wrong_;
};

inline void PutString(JsonWriter* writer, std::string_view text) {
  writer->String(text.data(), static_cast<rapidjson::SizeType>(text.size()));
}

// Nanoseconds exceed what JavaScript's numbers hold, so they travel as decimal text.
void PutNs(JsonWriter* writer, int64_t ns);

std::string ToJson(const JsonValue& value);

std::string Base64(std::string_view bytes);

}  // namespace monitor
