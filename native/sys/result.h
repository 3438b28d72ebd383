// Value or failure, without exceptions: the return type of everything in native/ that can fail.
//
// A Failure carries the errno and the kernel's name of the call that failed (a string
// literal), never a sentence: sentences are made in the parent or in TypeScript.
#pragma once

#include <errno.h>

#include <optional>
#include <utility>

namespace sys {

struct Failure {
  const char* op;  // kernel's name of the call, a literal: "move_mount"
  int error;       // errno value
};

template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT: implicit on purpose
  Result(Failure failure) : failure_(failure) {}  // NOLINT

  bool ok() const { return value_.has_value(); }
  explicit operator bool() const { return ok(); }
  T& value() & { return *value_; }
  T&& value() && { return std::move(*value_); }
  T& operator*() & { return *value_; }
  T* operator->() { return &*value_; }
  const Failure& failure() const { return failure_; }

 private:
  std::optional<T> value_;
  Failure failure_{nullptr, 0};
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Failure failure) : failure_(failure) {}  // NOLINT

  bool ok() const { return failure_.op == nullptr; }
  explicit operator bool() const { return ok(); }
  const Failure& failure() const { return failure_; }

 private:
  Failure failure_{nullptr, 0};
};

inline Failure FailedWithErrno(const char* op) { return Failure{op, errno}; }

}  // namespace sys
