// Parts of the spec reader that are files of their own. Only spec_reader*.cc include this.
#pragma once

#include "runtime/json_reader.h"
#include "runtime/spec.h"

namespace runtime {

void ReadProcessObject(const JsonNode& node, ProcessSpec* process);
void ReadLinux(const JsonNode& node, Spec* spec);
void ReadResources(const JsonNode& node, Spec* spec);
void ReadSeccomp(const JsonNode& node, SeccompSpec* seccomp);
std::vector<IdMapping> ReadIdMappings(const JsonNode& node);

// A list of numbers below kMaxBits, "0-3,7".
void ReadBitList(const JsonNode& node, BitList* list);

}  // namespace runtime
