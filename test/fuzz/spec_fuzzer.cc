// libFuzzer target: the spec reader and the plan maker. Whatever the bytes are, they end as a plan
// or as an error with a sentence, and a plan can be printed.
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <string>

#include "runtime/plan.h"
#include "runtime/spec.h"

namespace {

void ReadAsSpec(const std::string& text) {
  runtime::Spec spec;
  runtime::SpecError error;
  if (!runtime::ReadSpec(text, &spec, &error)) {
    if (error.message.empty()) abort();
    return;
  }
  runtime::Plan plan;
  if (!runtime::MakePlan(std::move(spec), &plan, &error)) {
    if (error.message.empty()) abort();
    return;
  }
  if (runtime::PrintPlan(plan).empty()) abort();
}

void ReadAsProcess(const std::string& text) {
  runtime::Spec holder;
  runtime::SpecError error;
  runtime::Plan plan;
  if (runtime::ReadProcess(text, &holder, &error) &&
      runtime::MakeExecPlan(std::move(holder), &plan, &error)) {
    return;
  }
  if (error.message.empty()) abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string text(reinterpret_cast<const char*>(data), size);
  ReadAsSpec(text);
  ReadAsProcess(text);
  return 0;
}
