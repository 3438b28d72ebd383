// Reads typed values out of a parsed JSON document and remembers the first thing wrong, with
// its path. After the first error every read is a no-op, so callers read straight through
// and look at failed() once.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <string>
#include <vector>

#define RAPIDJSON_HAS_STDSTRING 0
#define RAPIDJSON_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#include <rapidjson/document.h>

#include "runtime/spec.h"

namespace runtime {

struct SpecDocument {
  std::string text;  // parsed in place: strings of the document live here
  rapidjson::Document json;
};

// Parses in place, iteratively, with the limits of spec.h. Also used for the process of exec.
[[nodiscard]] bool ParseDocument(std::string text, SpecDocument* document, SpecError* error);

class JsonReader;

// A value and where it is. Absent members are nodes too (Has() is false), so optional parts
// need no branches.
class JsonNode {
 public:
  JsonNode(JsonReader* reader, const rapidjson::Value* value, const JsonNode* parent,
           const char* key, size_t index)
      : reader_(reader), value_(value), parent_(parent), key_(key), index_(index) {}

  bool Has() const { return value_ != nullptr; }
  const rapidjson::Value* value() const { return value_; }
  // A member of an object; null and absent are the same.
  JsonNode operator[](const char* key) const;

  const char* String(const char* fallback = "") const;  // no zero byte inside
  const char* RequiredString() const;                   // present and not ""
  bool Bool(bool fallback = false) const;
  int64_t Integer(int64_t lowest, int64_t highest, int64_t fallback = 0) const;
  uint64_t Unsigned(uint64_t highest, uint64_t fallback = 0) const;
  std::vector<const char*> Strings() const;
  std::vector<SysctlSpec> StringMap() const;
  std::vector<const char*> Keys() const;  // of an object; no zero byte inside

  // Calls `each(JsonNode)` for every element of an array; refuses other types.
  template <typename Each>
  void ForEach(Each each) const {
    if (!ExpectArray()) return;
    for (size_t i = 0; i < value_->Size(); i++) {
      each(JsonNode(reader_, &(*value_)[static_cast<rapidjson::SizeType>(i)], this, nullptr, i));
    }
  }

  void Refuse(const char* message) const;
  std::string Path() const;

 private:
  bool ExpectArray() const;

  JsonReader* reader_;
  const rapidjson::Value* value_;
  const JsonNode* parent_;
  const char* key_;
  size_t index_;
};

class JsonReader {
 public:
  explicit JsonReader(SpecError* error) : error_(error) {}
  JsonNode Root(const rapidjson::Value& value) { return {this, &value, nullptr, "", 0}; }
  bool failed() const { return failed_; }

 private:
  friend class JsonNode;
  SpecError* error_;
  bool failed_ = false;
};

}  // namespace runtime
