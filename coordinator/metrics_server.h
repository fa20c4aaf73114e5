// The HTTP side of the coordinator: /metrics for Prometheus, /healthz (the process answers) and
// /readyz (the run can make progress, or says why not).
#ifndef ALBEF_COORDINATOR_METRICS_SERVER_H_
#define ALBEF_COORDINATOR_METRICS_SERVER_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/metrics.h"

namespace albef {

// Serves until it is destroyed.
class MetricsServer {
 public:
  struct Options {
    std::string host = "127.0.0.1";
    int port = 0;  // 0: any free one
    // Answers from any thread, later; the server waits a moment for it.
    std::function<void(std::function<void(RunMetrics)>)> get_metrics = {};
  };

  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(Options options);
  ~MetricsServer();

  int port() const;

 private:
  struct State;
  explicit MetricsServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_METRICS_SERVER_H_
