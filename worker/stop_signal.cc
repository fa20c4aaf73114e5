#include "worker/stop_signal.h"

#include <unistd.h>

#include <atomic>
#include <csignal>

#include "common/exit_code.h"

namespace albef {
namespace {

std::atomic<int> first_signal{0};
static_assert(std::atomic<int>::is_always_lock_free, "used in a signal handler");

void OnSignal(int signal) {
  int expected = 0;
  if (!first_signal.compare_exchange_strong(expected, signal) && signal == SIGINT) {
    ::_exit(static_cast<int>(ExitCode::kInterrupted));
  }
}

}  // namespace

void InstallStopSignals() {
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM, SIGUSR2}) ::sigaction(signal, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
}

bool StopRequested() { return first_signal.load(std::memory_order_relaxed) != 0; }

std::string_view StopSignalName() {
  switch (first_signal.load(std::memory_order_relaxed)) {
    case 0:
      return "";
    case SIGINT:
      return "SIGINT";
    case SIGTERM:
      return "SIGTERM";
    default:
      return "SIGUSR2";
  }
}

}  // namespace albef
