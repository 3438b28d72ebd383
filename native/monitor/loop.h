// The monitor's one loop: epoll over descriptors, and timers as a list of deadlines.
//
// Single-threaded. An object that watches a descriptor owns a Watch, one that waits for time
// owns an Alarm; both unregister themselves. An object that may be on the stack of a running
// callback is handed to Bury() instead of being deleted.
#pragma once

#include <stdint.h>
#include <sys/epoll.h>

#include <memory>
#include <vector>

#include "sys/result.h"
#include "sys/unique_fd.h"

namespace monitor {

class Loop;

// One watched descriptor. The descriptor is borrowed: Stop() before it is closed.
class Source {
 public:
  explicit Source(Loop* loop) : loop_(loop) {}
  virtual ~Source() { Stop(); }
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  // Watches `fd` for EPOLL* `events`, level-triggered. EPOLLHUP and EPOLLERR always report.
  bool Start(int fd, uint32_t events);
  void SetEvents(uint32_t events);
  void Stop();
  bool watching() const { return fd_ >= 0; }

  virtual void OnReady(uint32_t events) = 0;

 private:
  Loop* const loop_;
  int fd_ = -1;
  uint32_t events_ = 0;
};

template <typename Owner, void (Owner::*kMethod)(uint32_t)>
class Watch final : public Source {
 public:
  Watch(Loop* loop, Owner* owner) : Source(loop), owner_(owner) {}
  void OnReady(uint32_t events) override { (owner_->*kMethod)(events); }

 private:
  Owner* const owner_;
};

// One deadline on CLOCK_MONOTONIC.
class Timer {
 public:
  explicit Timer(Loop* loop) : loop_(loop) {}
  virtual ~Timer() { Disarm(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // Replaces an earlier deadline.
  void ArmAt(int64_t deadline_ms);
  void ArmIn(int64_t delay_ms);
  void Disarm();
  bool armed() const { return deadline_ms_ >= 0; }
  int64_t deadline_ms() const { return deadline_ms_; }

  virtual void OnDeadline() = 0;

 private:
  Loop* const loop_;
  int64_t deadline_ms_ = -1;
};

template <typename Owner, void (Owner::*kMethod)()>
class Alarm final : public Timer {
 public:
  Alarm(Loop* loop, Owner* owner) : Timer(loop), owner_(owner) {}
  void OnDeadline() override { (owner_->*kMethod)(); }

 private:
  Owner* const owner_;
};

// What may be deleted only once the callbacks of one turn are over.
class Mortal {
 public:
  virtual ~Mortal() = default;
};

class Loop {
 public:
  sys::Result<void> Open();
  // One turn: waits for the next event or deadline, and runs its callbacks.
  void Turn();
  void Bury(std::unique_ptr<Mortal> mortal) { graveyard_.push_back(std::move(mortal)); }

 private:
  friend class Source;
  friend class Timer;
  static constexpr int kBatch = 32;

  void RunDeadlines();
  int WaitMs() const;

  sys::UniqueFd epoll_;
  epoll_event batch_[kBatch];
  int batch_next_ = 0;
  int batch_size_ = 0;
  std::vector<Timer*> timers_;
  std::vector<std::unique_ptr<Mortal>> graveyard_;
};

}  // namespace monitor
