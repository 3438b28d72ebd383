#include "monitor/loop.h"

#include <limits.h>

#include <algorithm>

#include "monitor/clock.h"

namespace monitor {

bool Source::Start(int fd, uint32_t events) {
  Stop();
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  if (::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_ADD, fd, &event) < 0) return false;
  fd_ = fd;
  events_ = events;
  return true;
}

void Source::SetEvents(uint32_t events) {
  if (fd_ < 0 || events == events_) return;
  epoll_event event{};
  event.events = events;
  event.data.ptr = this;
  if (::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_MOD, fd_, &event) == 0) events_ = events;
}

void Source::Stop() {
  if (fd_ < 0) return;
  ::epoll_ctl(loop_->epoll_.get(), EPOLL_CTL_DEL, fd_, nullptr);
  fd_ = -1;
  // An event of this turn may already be waiting in the batch.
  for (int i = loop_->batch_next_; i < loop_->batch_size_; ++i) {
    if (loop_->batch_[i].data.ptr == this) loop_->batch_[i].data.ptr = nullptr;
  }
}

void Timer::ArmAt(int64_t deadline_ms) {
  if (deadline_ms_ < 0) loop_->timers_.push_back(this);
  deadline_ms_ = std::max<int64_t>(deadline_ms, 0);
}

void Timer::ArmIn(int64_t delay_ms) { ArmAt(MonotonicMs() + delay_ms); }

void Timer::Disarm() {
  if (deadline_ms_ < 0) return;
  deadline_ms_ = -1;
  std::erase(loop_->timers_, this);
}

sys::Result<void> Loop::Open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll_.valid()) return sys::FailedWithErrno("epoll_create1");
  return {};
}

int Loop::WaitMs() const {
  int64_t earliest_ms = INT64_MAX;
  for (const Timer* timer : timers_) earliest_ms = std::min(earliest_ms, timer->deadline_ms());
  if (earliest_ms == INT64_MAX) return -1;
  return static_cast<int>(std::clamp<int64_t>(earliest_ms - MonotonicMs(), 0, INT_MAX));
}

void Loop::RunDeadlines() {
  if (timers_.empty()) return;
  const int64_t now_ms = MonotonicMs();
  // A callback may arm and disarm any timer, so the search begins anew after each one. A timer
  // armed again with a deadline in the past would run for ever here: `now_ms` stands still.
  for (;;) {
    const auto due = std::find_if(timers_.begin(), timers_.end(),
                                  [now_ms](const Timer* timer) { return timer->deadline_ms() <= now_ms; });
    if (due == timers_.end()) return;
    Timer* const timer = *due;
    timer->Disarm();
    timer->OnDeadline();
  }
}

void Loop::Turn() {
  const int count = ::epoll_wait(epoll_.get(), batch_, kBatch, WaitMs());
  batch_size_ = count > 0 ? count : 0;
  for (batch_next_ = 0; batch_next_ < batch_size_;) {
    const epoll_event event = batch_[batch_next_++];
    if (event.data.ptr != nullptr) static_cast<Source*>(event.data.ptr)->OnReady(event.events);
  }
  batch_size_ = 0;
  RunDeadlines();
  // Destructors may bury more.
  while (!graveyard_.empty()) {
    std::vector<std::unique_ptr<Mortal>> buried;
    buried.swap(graveyard_);
  }
}

}  // namespace monitor
