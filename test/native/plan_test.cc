// Plans against golden texts: test/native/golden/<name>.json -> <name>.plan.
#include <doctest/doctest.h>
#include <fcntl.h>
#include <stdlib.h>

#include "runtime/plan.h"
#include "sys/files.h"

namespace {

std::string Golden(const std::string& name) {
  const char* directory = getenv("MINKE_TEST_DIR");
  const std::string path =
      std::string(directory != nullptr ? directory : "test/native") + "/golden/" + name;
  auto text = sys::ReadFileAt(AT_FDCWD, path.c_str(), 1 << 20);
  REQUIRE_MESSAGE(text.ok(), path);
  return *text;
}

// MINKE_UPDATE_GOLDEN=1 writes what is there instead of comparing.
void CheckGolden(const std::string& name, const std::string& text) {
  if (getenv("MINKE_UPDATE_GOLDEN") != nullptr) {
    const char* directory = getenv("MINKE_TEST_DIR");
    const std::string path =
        std::string(directory != nullptr ? directory : "test/native") + "/golden/" + name;
    REQUIRE(sys::WriteAtomically(AT_FDCWD, path.c_str(), text, 0644, false).ok());
  }
  CHECK(text == Golden(name));
}

std::string PlanOf(const std::string& name) {
  runtime::Spec spec;
  runtime::SpecError error;
  runtime::Plan plan;
  const bool ok = runtime::ReadSpec(Golden(name), &spec, &error) &&
                  runtime::MakePlan(std::move(spec), &plan, &error);
  REQUIRE_MESSAGE(ok, error.json_path << " " << error.message);
  return runtime::PrintPlan(plan);
}

}  // namespace

TEST_CASE("MakePlan of a usual container equals its golden text") {
  CheckGolden("usual.plan", PlanOf("usual.json"));
}

TEST_CASE("MakePlan of a user-namespaced pod container equals its golden text") {
  CheckGolden("pod-userns.plan", PlanOf("pod-userns.json"));
}
