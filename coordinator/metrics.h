// The run in Prometheus's words: names and units in docs/running.md, base units, _total for
// counters. Counters begin at 0 with each coordinator, as Prometheus expects of a restart.
#ifndef ALBEF_COORDINATOR_METRICS_H_
#define ALBEF_COORDINATOR_METRICS_H_

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "coordinator/recorder.h"
#include "proto/coordinator.pb.h"

namespace albef {

// Observations in buckets of fixed bounds.
class Histogram {
 public:
  explicit Histogram(std::vector<double> upper_bounds)
      : upper_bounds_(std::move(upper_bounds)), counts_(upper_bounds_.size() + 1) {}

  void Observe(double value);

  const std::vector<double>& upper_bounds() const { return upper_bounds_; }
  // One for each bound, and one for what is above all; not cumulative.
  const std::vector<uint64_t>& counts() const { return counts_; }
  double sum() const { return sum_; }

 private:
  std::vector<double> upper_bounds_;
  std::vector<uint64_t> counts_;
  double sum_ = 0;
};

// What only adds up. A plain value; not thread-safe.
class RunCounters {
 public:
  // `newest_step`: done before this coordinator began.
  explicit RunCounters(int64_t newest_step = 0);

  // `samples_per_step`: V · B, 0 while it is not known.
  void OnStep(const StepMetrics& metrics, int64_t samples_per_step);
  void OnEvent(const Event& event);
  void OnRestart(int64_t step);
  void OnBadSample(const std::string& json);
  // `seconds` have passed, in which the run was in that state.
  void OnTime(v1::RunState state, double seconds);

  int64_t steps() const { return steps_; }
  int64_t samples() const { return samples_; }
  int64_t lost_steps() const { return lost_steps_; }
  double data_wait_seconds() const { return data_wait_seconds_; }
  double goodput_ratio() const { return all_seconds_ > 0 ? running_seconds_ / all_seconds_ : 0; }
  const std::map<std::string, int64_t>& recoveries() const { return recoveries_; }    // by cause
  const std::map<std::string, int64_t>& bad_samples() const { return bad_samples_; }  // by reason
  const Histogram& step_seconds() const { return step_seconds_; }
  // In the order of kPhases.
  const std::vector<Histogram>& phase_seconds() const { return phase_seconds_; }
  const Histogram& recovery_seconds() const { return recovery_seconds_; }
  const Histogram& checkpoint_seconds() const { return checkpoint_seconds_; }
  const Histogram& checkpoint_stall_seconds() const { return checkpoint_stall_seconds_; }

 private:
  int64_t newest_step_;
  int64_t steps_ = 0;
  int64_t samples_ = 0;
  int64_t lost_steps_ = 0;
  double data_wait_seconds_ = 0;
  double running_seconds_ = 0;
  double all_seconds_ = 0;
  std::map<std::string, int64_t> recoveries_;
  std::map<std::string, int64_t> bad_samples_;
  Histogram step_seconds_;
  std::vector<Histogram> phase_seconds_;
  Histogram recovery_seconds_;
  Histogram checkpoint_seconds_;
  Histogram checkpoint_stall_seconds_;
};

// Everything that /metrics shows, at one moment.
struct RunMetrics {
  v1::RunStatus status;
  std::map<std::string, int64_t> workers;  // by state
  RunCounters counters;
  int64_t checkpoint_failures = 0;
  int64_t dropped_lines = 0;
  int64_t batch_size = 0;
  std::string device;
};

// The text of /metrics.
std::string FormatMetrics(const RunMetrics& metrics);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_METRICS_H_
