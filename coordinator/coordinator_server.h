// The coordinator of a run: its term, its state machine and its servers as one object.
#ifndef ALBEF_COORDINATOR_COORDINATOR_SERVER_H_
#define ALBEF_COORDINATOR_COORDINATOR_SERVER_H_

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/run_driver.h"

namespace albef {

class CoordinatorServer {
 public:
  struct Options {
    std::filesystem::path run_dir = {};
    std::string listen = "127.0.0.1:0";
    std::string metrics_listen = "127.0.0.1:0";
    std::string advertise = {};  // host or interface for others to dial; empty: as it listens
    bool is_insecure_allowed = false;
    // A restart or take-over: exactly the next term. Unset: the next after the newest, refused
    // while another coordinator is alive.
    std::optional<int64_t> after_term = {};
    // Where no term is given: whether an attempt that was left unfinished is gone on with.
    bool goes_on = true;
    // Whether workers start another one where this one is gone.
    bool is_embedded = false;
    std::optional<ProgressPrinter::Options> progress = {};
    std::chrono::milliseconds term_check_interval = std::chrono::milliseconds(200);
    std::chrono::milliseconds farewell = std::chrono::seconds(5);
    std::function<void(int exit_code)> on_finished = {};
    // From any thread. A program ends at once; a server that is told to end does so cleanly.
    std::function<void(const absl::Status&)> on_stale = {};
  };

  // ALREADY_EXISTS: somebody else has the term after `after_term`. FAILED_PRECONDITION: another
  // coordinator is alive, and where. INVALID_ARGUMENT: an address that cannot be.
  static absl::StatusOr<std::unique_ptr<CoordinatorServer>> Start(Options options);

  // Ends sessions and servers; workers look for another coordinator.
  ~CoordinatorServer();

  const CoordinatorInfo& info() const;
  RunDriver& driver();

  // As an operator's drain of the run. A run that has not begun is over with exit code 75.
  void Drain(const std::string& reason);

 private:
  struct State;
  explicit CoordinatorServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_COORDINATOR_SERVER_H_
