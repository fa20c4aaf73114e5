#include "coordinator/event_loop.h"

namespace albef {

void EventLoop::Post(std::function<void()> task) {
  const std::lock_guard lock(mutex_);
  if (is_stopping_) return;
  tasks_.push_back(std::move(task));
  wake_.notify_one();  // with the mutex held: afterwards the loop may be gone
}

void EventLoop::Stop() {
  std::vector<std::function<void()>> dropped;
  {
    const std::lock_guard lock(mutex_);
    is_stopping_ = true;
    dropped.swap(tasks_);
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
}

void EventLoop::Thread() {
  std::vector<std::function<void()>> tasks;
  auto turn_due = std::chrono::steady_clock::now() + options_.interval;
  while (true) {
    {
      std::unique_lock lock(mutex_);
      wake_.wait_until(lock, turn_due, [&] { return is_stopping_ || !tasks_.empty(); });
      if (is_stopping_) return;
      tasks.swap(tasks_);
    }
    options_.before();
    for (const std::function<void()>& task : tasks) task();
    tasks.clear();
    options_.after();
    turn_due = std::chrono::steady_clock::now() + options_.interval;
  }
}

}  // namespace albef
