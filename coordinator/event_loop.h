// A thread that carries out what others ask for, one thing after the other, and looks at the time.
#ifndef ALBEF_COORDINATOR_EVENT_LOOP_H_
#define ALBEF_COORDINATOR_EVENT_LOOP_H_

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace albef {

class EventLoop {
 public:
  struct Options {
    std::chrono::milliseconds interval = std::chrono::milliseconds(50);
    // Around what was asked for; at least every `interval`, also when nothing was.
    std::function<void()> before = [] {};
    std::function<void()> after = [] {};
  };

  explicit EventLoop(Options options) : options_(std::move(options)) {}
  ~EventLoop() { Stop(); }

  void Start() {
    thread_ = std::thread([this] { Thread(); });
  }

  // From any thread, at any time; what is asked for after Stop is dropped.
  void Post(std::function<void()> task);

  // Ends the thread after what it is at. Not from the thread itself.
  void Stop();

 private:
  void Thread();

  const Options options_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
  bool is_stopping_ = false;                  // guarded by mutex_
  std::thread thread_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_EVENT_LOOP_H_
