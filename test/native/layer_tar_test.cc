// The reader of archives over memory: forms of names and sizes, sparse maps, limits.
#include <doctest/doctest.h>
#include <stdio.h>
#include <string.h>

#include <string>
#include <vector>

#include "layer/byte_source.h"
#include "layer/tar_reader.h"

namespace {

// Gives its bytes in views of a chosen size.
class MemorySource final : public layer::ByteSource {
 public:
  MemorySource(std::string bytes, size_t view) : bytes_(std::move(bytes)), view_(view) {}
  bool Next(const uint8_t** bytes, size_t* size, layer::Problem*) override {
    *bytes = reinterpret_cast<const uint8_t*>(bytes_.data()) + at_;
    *size = std::min(view_, bytes_.size() - at_);
    at_ += *size;
    return true;
  }

 private:
  const std::string bytes_;
  const size_t view_;
  size_t at_ = 0;
};

std::string Padded(std::string text) {
  text.resize((text.size() + 511) / 512 * 512, '\0');
  return text;
}

std::string Header(const std::string& name, char type, uint64_t size, const char* magic = "ustar\0" "00") {
  char block[512] = {};
  memcpy(block, name.data(), std::min<size_t>(name.size(), 100));
  snprintf(block + 100, 8, "%07o", 0644);
  snprintf(block + 108, 8, "%07o", 1000);
  snprintf(block + 116, 8, "%07o", 1000);
  snprintf(block + 124, 12, "%011llo", static_cast<unsigned long long>(size));
  snprintf(block + 136, 12, "%011o", 1234567);
  block[156] = type;
  memcpy(block + 257, magic, 8);
  memset(block + 148, ' ', 8);
  unsigned sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  snprintf(block + 148, 8, "%06o", sum);
  return std::string(block, sizeof block);
}

std::string Record(const std::string& key, const std::string& value) {
  const std::string body = " " + key + "=" + value + "\n";
  size_t size = body.size() + 1;
  while (std::to_string(size).size() + body.size() != size) size = std::to_string(size).size() + body.size();
  return std::to_string(size) + body;
}

std::string Pax(const std::string& records) { return Header("pax", 'x', records.size()) + Padded(records); }
std::string File(const std::string& name, const std::string& body) { return Header(name, '0', body.size()) + Padded(body); }
const std::string kEnd(1024, '\0');

struct Read {
  std::vector<layer::Entry> entries;
  std::vector<std::string> bodies;
  layer::Problem problem;
};

Read ReadAll(const std::string& archive, size_t view = 700, const layer::Limits& limits = {}) {
  MemorySource source(archive, view);
  layer::TarReader reader(&source, &limits);
  Read read;
  for (;;) {
    layer::Entry entry;
    if (reader.Next(&entry, &read.problem) != layer::TarReader::Step::kEntry) return read;
    std::string body;
    for (;;) {
      const uint8_t* bytes = nullptr;
      size_t size = 0;
      if (!reader.Body(&bytes, &size, &read.problem)) return read;
      if (size == 0) break;
      body.append(reinterpret_cast<const char*>(bytes), size);
    }
    read.entries.push_back(entry);
    read.bodies.push_back(body);
  }
}

}  // namespace

TEST_CASE("bodies and padding are read whatever the views of the source are") {
  const std::string archive = File("a", std::string(513, 'x')) + File("b", "") + File("c", "y") + kEnd;
  for (const size_t view : {size_t{1}, size_t{511}, size_t{512}, size_t{100000}}) {
    const Read read = ReadAll(archive, view);
    CHECK_FALSE(read.problem.set());
    REQUIRE(read.entries.size() == 3);
    CHECK(read.bodies == std::vector<std::string>{std::string(513, 'x'), "", "y"});
  }
}

TEST_CASE("pax replaces name, size, owner and time of its one entry") {
  const std::string long_name(300, 'n');
  const Read read = ReadAll(Pax(Record("path", long_name) + Record("size", "3") + Record("uid", "70000") +
                                Record("mtime", "5.000000007")) +
                            Header("short", '0', 0) + Padded("abc") + File("next", "") + kEnd);
  REQUIRE(read.entries.size() == 2);
  CHECK(read.entries[0].path == long_name);
  CHECK(read.bodies[0] == "abc");
  CHECK(read.entries[0].uid == 70000);
  CHECK(read.entries[0].mtime_s == 5);
  CHECK(read.entries[0].mtime_ns == 7);
  CHECK(read.entries[1].path == "next");
}

TEST_CASE("an attribute keeps NUL, line breaks and bytes that are no text") {
  const std::string value("a\0b\n\xff=", 6);
  const Read read = ReadAll(Pax(Record("SCHILY.xattr.user.x", value)) + File("f", "") + kEnd);
  REQUIRE(read.entries.size() == 1);
  REQUIRE(read.entries[0].xattrs.size() == 1);
  CHECK(read.entries[0].xattrs[0].value == value);
}

TEST_CASE("GNU long names give way to pax") {
  const std::string name(200, 'l');
  const std::string gnu = Header("././@LongLink", 'L', name.size() + 1, "ustar  ") + Padded(name + '\0');
  CHECK(ReadAll(gnu + File("f", "") + kEnd).entries.at(0).path == name);
  CHECK(ReadAll(gnu + Pax(Record("path", "p")) + File("f", "") + kEnd).entries.at(0).path == "p");
}

TEST_CASE("a pax 1.0 sparse file has its map taken off its body") {
  const std::string map = Padded("2\n0\n3\n1000\n2\n");
  const Read read = ReadAll(Pax(Record("GNU.sparse.major", "1") + Record("GNU.sparse.minor", "0") +
                                Record("GNU.sparse.name", "real") + Record("GNU.sparse.realsize", "2000")) +
                            Header("GNUSparseFile.1/real", '0', map.size() + 5) + Padded(map + "abcde") + kEnd);
  REQUIRE(read.entries.size() == 1);
  CHECK(read.entries[0].path == "real");
  CHECK(read.entries[0].file_bytes == 2000);
  REQUIRE(read.entries[0].segments.size() == 2);
  CHECK(read.entries[0].segments[1].offset == 1000);
  CHECK(read.bodies[0] == "abcde");
}

TEST_CASE("damage and limits have their codes") {
  layer::Limits limits;
  limits.max_entries = 1;
  limits.max_bytes = 100;
  CHECK(ReadAll(File("a", "") + File("b", "") + kEnd, 700, limits).problem.code == layer::kLimit);
  CHECK(ReadAll(File("a", std::string(101, 'x')) + kEnd, 700, limits).problem.code == layer::kLimit);
  CHECK(ReadAll(Pax(std::string(2 << 20, ' ')) + File("a", "") + kEnd).problem.code == layer::kLimit);
  std::string wrong = File("a", "") + kEnd;
  wrong[0] = 'b';
  CHECK(ReadAll(wrong).problem.code == layer::kCorrupt);
  CHECK(ReadAll(File("a", std::string(600, 'x')).substr(0, 700)).problem.code == layer::kTruncated);
  CHECK(ReadAll(Pax(Record("path", "p")) + kEnd).problem.code == layer::kTruncated);
  CHECK(ReadAll(Pax("9 broken\n") + File("a", "") + kEnd).problem.code == layer::kCorrupt);
  CHECK(ReadAll(Header("v", 'V', 0) + kEnd).problem.code == layer::kUnsupported);
  CHECK(ReadAll(Pax(Record("uid", "4294967295")) + File("a", "") + kEnd).problem.code == layer::kCorrupt);
}

TEST_CASE("an archive without its last blocks is whole") {
  CHECK_FALSE(ReadAll(File("a", "x")).problem.set());
  CHECK_FALSE(ReadAll("").problem.set());
}
