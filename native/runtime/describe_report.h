// Sentences for failures: the only place in native/runtime that makes text about errno.
#pragma once

#include <string>

#include "runtime/child_report.h"
#include "runtime/container.h"
#include "runtime/plan.h"
#include "sys/result.h"

namespace runtime {

// "ENOENT"; "E1234" for a number without a name.
std::string ErrnoName(int error);

// What often is behind an errno that misleads, or "".
const char* ErrnoHint(Step step, const char* syscall, int error);

// A failure of the child, with the name of the plan's entry that it was working on.
Problem DescribeReport(const ChildReport& report, const Plan& plan);

// A failure of the parent: `doing` is the clause ("open bind source \"/x\"").
Problem DescribeFailure(Step step, const std::string& doing, const sys::Failure& failure);

// Tells it in `problem`; always false, which the caller returns.
bool FailStep(Step step, const std::string& doing, const sys::Failure& failure, Problem* problem);

// In double quotes, as messages have values.
std::string Quote(const std::string& text);

Problem DescribeSpecError(const SpecError& error);

const char* StepName(Step step);

}  // namespace runtime
