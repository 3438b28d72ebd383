#include "layer/pax.h"

#include <algorithm>

namespace layer {
namespace {

constexpr std::string_view kXattrPrefix = "SCHILY.xattr.";
constexpr std::string_view kSparsePrefix = "GNU.sparse.";

bool Corrupt(Problem* problem, std::string message) {
  problem->code = kCorrupt;
  problem->message = std::move(message);
  return false;
}

// `1350244992.023960108`, `-1.5`: seconds as a floor and nanoseconds counted up from it.
bool ParseTime(std::string_view text, int64_t* seconds, uint32_t* nanoseconds) {
  const bool negative = !text.empty() && text[0] == '-';
  if (negative) text.remove_prefix(1);
  const size_t dot = std::min(text.find('.'), text.size());
  const auto whole = ParseDecimal(text.substr(0, dot));
  if (!whole || *whole > INT64_MAX / 2) return false;
  uint32_t fraction = 0;
  bool below = false;  // digits after the ninth, which the floor must not forget
  std::string_view digits = dot < text.size() ? text.substr(dot + 1) : std::string_view();
  for (size_t i = 0; i < std::max<size_t>(digits.size(), 9); i++) {
    const char digit = i < digits.size() ? digits[i] : '0';
    if (digit < '0' || digit > '9') return false;
    if (i < 9) fraction = fraction * 10 + static_cast<uint32_t>(digit - '0');
    else below |= digit != '0';
  }
  *seconds = static_cast<int64_t>(*whole);
  if (negative) {
    if (below) fraction++;
    *seconds = -*seconds - (fraction != 0 ? 1 : 0);
    fraction = fraction == 0 ? 0 : 1'000'000'000 - fraction;
  }
  *nanoseconds = fraction;
  return true;
}

bool SetNumber(std::string_view key, std::string_view value, std::optional<uint64_t>* field, Problem* problem) {
  // An empty value takes a record back (POSIX pax).
  if (value.empty()) {
    field->reset();
    return true;
  }
  *field = ParseDecimal(value);
  return *field ? true : Corrupt(problem, "pax: \"" + std::string(key) + "\" is not a number");
}

bool SetName(std::string_view key, std::string_view value, std::optional<std::string>* field, Problem* problem) {
  if (value.find('\0') != std::string_view::npos) {
    return Corrupt(problem, "pax: \"" + std::string(key) + "\" holds a NUL");
  }
  if (value.empty()) field->reset();
  else *field = std::string(value);
  return true;
}

bool SetXattr(std::string_view name, std::string_view value, const Limits& limits, PaxFields* fields,
              Problem* problem) {
  if (name.empty() || name.size() > 255 || name.find('\0') != std::string_view::npos) {
    return Corrupt(problem, "pax: name of an extended attribute");
  }
  if (value.size() > limits.max_xattr_bytes || fields->xattrs.size() >= limits.max_xattrs) {
    *problem = {kLimit, "extended attributes beyond the limits", nullptr, 0, ""};
    return false;
  }
  for (Xattr& known : fields->xattrs) {
    if (known.name == name) {
      known.value = value;
      return true;
    }
  }
  fields->xattrs.push_back({std::string(name), std::string(value)});
  return true;
}

bool AddToMap(std::string_view text, const Limits& limits, PaxFields* fields, Problem* problem) {
  const auto number = ParseDecimal(text);
  if (!number) return Corrupt(problem, "pax: number of a sparse map");
  if (fields->sparse_map.size() >= 2ull * limits.max_sparse_segments) {
    *problem = {kLimit, "sparse map beyond the limit", nullptr, 0, ""};
    return false;
  }
  fields->has_sparse_map = true;
  fields->sparse_map.push_back(*number);
  return true;
}

bool SetSparse(std::string_view key, std::string_view value, const Limits& limits, PaxFields* fields,
               Problem* problem) {
  if (key == "name") return SetName(key, value, &fields->sparse_name, problem);
  if (key == "size" || key == "realsize") return SetNumber(key, value, &fields->sparse_real_size, problem);
  if (key == "major") return SetNumber(key, value, &fields->sparse_major, problem);
  if (key == "minor") return SetNumber(key, value, &fields->sparse_minor, problem);
  if (key == "numblocks") {
    fields->has_sparse_map = true;
    return ParseDecimal(value) ? true : Corrupt(problem, "pax: number of a sparse map");
  }
  if (key == "offset" || key == "numbytes") {
    const bool in_turn = fields->sparse_map.size() % 2 == (key == "offset" ? 0 : 1);
    return in_turn ? AddToMap(value, limits, fields, problem) : Corrupt(problem, "pax: order of a sparse map");
  }
  if (key != "map") return true;
  fields->sparse_map.clear();
  fields->has_sparse_map = true;
  for (size_t at = 0; !value.empty() && at <= value.size();) {
    const size_t comma = std::min(value.find(',', at), value.size());
    if (!AddToMap(value.substr(at, comma - at), limits, fields, problem)) return false;
    at = comma + 1;
  }
  return true;
}

bool SetField(std::string_view key, std::string_view value, const Limits& limits, PaxFields* fields,
              Problem* problem) {
  if (key == "path") return SetName(key, value, &fields->path, problem);
  if (key == "linkpath") return SetName(key, value, &fields->link, problem);
  if (key == "size") return SetNumber(key, value, &fields->size, problem);
  if (key == "uid") return SetNumber(key, value, &fields->uid, problem);
  if (key == "gid") return SetNumber(key, value, &fields->gid, problem);
  if (key == "mtime") {
    int64_t seconds = 0;
    if (value.empty()) return fields->mtime_s.reset(), true;
    if (!ParseTime(value, &seconds, &fields->mtime_ns)) return Corrupt(problem, "pax: \"mtime\" is not a time");
    fields->mtime_s = seconds;
    return true;
  }
  if (key.starts_with(kXattrPrefix)) {
    return SetXattr(key.substr(kXattrPrefix.size()), value, limits, fields, problem);
  }
  if (key.starts_with(kSparsePrefix)) {
    return SetSparse(key.substr(kSparsePrefix.size()), value, limits, fields, problem);
  }
  return true;
}

}  // namespace

std::optional<uint64_t> ParseDecimal(std::string_view text) {
  if (text.empty()) return std::nullopt;
  uint64_t value = 0;
  for (char digit : text) {
    if (digit < '0' || digit > '9') return std::nullopt;
    if (__builtin_mul_overflow(value, 10u, &value)) return std::nullopt;
    if (__builtin_add_overflow(value, static_cast<uint64_t>(digit - '0'), &value)) return std::nullopt;
  }
  return value;
}

bool ParsePax(std::string_view records, const Limits& limits, PaxFields* fields, Problem* problem) {
  while (!records.empty()) {
    const size_t space = records.substr(0, std::min<size_t>(records.size(), 21)).find(' ');
    if (space == std::string_view::npos) return Corrupt(problem, "pax: length of a record");
    const auto length = ParseDecimal(records.substr(0, space));
    // The least record is "N =\n" with an empty key, which is refused below.
    if (!length || *length <= space + 1 || *length > records.size() || records[*length - 1] != '\n') {
      return Corrupt(problem, "pax: length of a record");
    }
    const std::string_view body = records.substr(space + 1, *length - space - 2);
    const size_t equals = body.find('=');
    if (equals == std::string_view::npos || equals == 0) return Corrupt(problem, "pax: record without a key");
    if (!SetField(body.substr(0, equals), body.substr(equals + 1), limits, fields, problem)) return false;
    records.remove_prefix(*length);
  }
  return true;
}

}  // namespace layer
