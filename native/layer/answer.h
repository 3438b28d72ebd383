// The one JSON line with which a run of minke-layer ends.
#pragma once

#include <string>

#include "layer/byte_source.h"
#include "sys/result.h"

namespace layer {

// Text is latin1 of the raw bytes.
std::string Quoted(const std::string& text);

// Both return the exit code. fd: standard output, or standard error where that is in use.
int Print(const std::string& line, int code, int fd = 1);
int PrintProblem(const Problem& problem, int fd = 1);
int PrintFailure(const char* message, const sys::Failure& failure);

}  // namespace layer
