#include "coordinator/metrics.h"

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>

#include "coordinator/run_state.h"

namespace albef {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

std::optional<double> NumberOf(const Event& event, std::string_view key) {
  for (const auto& [name, value] : event.facts) {
    if (name != key) continue;
    if (const auto* real = std::get_if<double>(&value)) return *real;
    if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  }
  return std::nullopt;
}

std::string TextOf(const Event& event, std::string_view key) {
  for (const auto& [name, value] : event.facts) {
    const auto* text = std::get_if<std::string>(&value);
    if (name == key && text != nullptr) return *text;
  }
  return "other";
}

// Families in the order in which they are added.
class Families {
 public:
  void Gauge(const char* name, const char* help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.gauge.value = value;
    Add(name, help, MetricType::Gauge, std::move(metric));
  }
  void Counter(const char* name, const char* help, double value, Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    metric.counter.value = value;
    Add(name, help, MetricType::Counter, std::move(metric));
  }
  void Distribution(const char* name, const char* help, const Histogram& histogram,
                    Labels labels = {}) {
    ClientMetric metric;
    metric.label = std::move(labels);
    uint64_t count = 0;
    for (size_t i = 0; i < histogram.counts().size(); ++i) {
      count += histogram.counts()[i];
      const bool is_last = i == histogram.upper_bounds().size();
      metric.histogram.bucket.push_back(
          {count, is_last ? std::numeric_limits<double>::infinity() : histogram.upper_bounds()[i]});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = histogram.sum();
    Add(name, help, MetricType::Histogram, std::move(metric));
  }

  std::string Text() const {
    std::ostringstream text;
    prometheus::TextSerializer().Serialize(text, families_);
    return text.str();
  }

 private:
  void Add(const char* name, const char* help, MetricType type, ClientMetric metric) {
    if (families_.empty() || families_.back().name != name) {
      families_.push_back({.name = name, .help = help, .type = type, .metric = {}});
    }
    families_.back().metric.push_back(std::move(metric));
  }

  std::vector<MetricFamily> families_;
};

void AddTraining(const RunMetrics& run, Families& add) {
  const v1::RunStatus& status = run.status;
  const v1::StepReport& step = status.last_step();
  const RunCounters& counters = run.counters;
  add.Counter("pretrain_steps_total", "Iterations done", static_cast<double>(counters.steps()));
  add.Gauge("pretrain_step", "Iterations done in the whole run",
            static_cast<double>(status.step()));
  add.Gauge("pretrain_step_target", "Iteration at which the run ends",
            static_cast<double>(status.target_step()));
  add.Counter("pretrain_samples_total", "Image-text pairs trained on",
              static_cast<double>(counters.samples()));
  add.Counter("pretrain_lost_steps_total", "Iterations that had to be done again",
              static_cast<double>(counters.lost_steps()));
  add.Counter("pretrain_data_wait_seconds_total", "Time in which steps waited for data",
              counters.data_wait_seconds());
  add.Distribution("pretrain_step_duration_seconds", "Duration of an iteration",
                   counters.step_seconds());
  for (size_t i = 0; i < kPhases.size(); ++i) {
    add.Distribution("pretrain_step_phase_seconds",
                     "Where an iteration's time goes, mean of the steps between two reports",
                     counters.phase_seconds()[i], {{"phase", std::string(kPhases[i].name)}});
  }
  if (step.step() == 0) return;
  add.Gauge("pretrain_epoch", "Epoch, from 0", static_cast<double>(step.epoch()));
  add.Gauge("pretrain_loss", "Mean over the virtual ranks", step.loss_mlm(),
            {{"objective", "mlm"}});
  add.Gauge("pretrain_loss", "", step.loss_itc(), {{"objective", "itc"}});
  add.Gauge("pretrain_loss", "", step.loss_itm(), {{"objective", "itm"}});
  add.Gauge("pretrain_learning_rate", "Of the newest step", step.lr());
  add.Gauge("pretrain_temperature", "Of the contrastive loss", step.temp());
  add.Gauge("pretrain_samples_per_second", "Of the newest steps", step.samples_per_second());
  add.Counter("pretrain_skipped_steps_total",
              "Iterations of the run in which something was not finite",
              static_cast<double>(step.skipped()));
}

void AddMembership(const RunMetrics& run, Families& add) {
  const v1::RunStatus& status = run.status;
  for (const auto& [state, count] : run.workers) {
    add.Gauge("pretrain_workers", "Workers by state", static_cast<double>(count),
              {{"state", state}});
  }
  add.Gauge("pretrain_members", "Workers that take part",
            static_cast<double>(status.num_members()));
  add.Gauge("pretrain_generation", "Membership of the run, counted up with every change",
            static_cast<double>(status.generation()));
  add.Gauge("pretrain_coordinator_term", "Life of the coordinator, counted up with every restart",
            static_cast<double>(status.term()));
  for (const auto& [cause, count] : run.counters.recoveries()) {
    add.Counter("pretrain_recoveries_total", "Generation changes that a failure caused",
                static_cast<double>(count), {{"cause", cause}});
  }
  add.Distribution("pretrain_recovery_duration_seconds", "From a failure to running again",
                   run.counters.recovery_seconds());
  add.Gauge("pretrain_goodput_ratio", "Share of this coordinator's life in which the run ran",
            run.counters.goodput_ratio());
}

void AddStorage(const RunMetrics& run, Families& add) {
  add.Counter("pretrain_checkpoint_failures_total", "Checkpoints that could not be committed",
              static_cast<double>(run.checkpoint_failures));
  add.Distribution("pretrain_checkpoint_duration_seconds",
                   "Writing, committing and verifying a checkpoint, in the background",
                   run.counters.checkpoint_seconds());
  add.Distribution("pretrain_checkpoint_stall_seconds", "Time in which a checkpoint stops training",
                   run.counters.checkpoint_stall_seconds());
  if (run.status.has_last_checkpoint()) {
    const v1::Checkpoint& checkpoint = run.status.last_checkpoint();
    add.Gauge("pretrain_checkpoint_last_success_timestamp_seconds",
              "When the newest checkpoint was committed", checkpoint.committed_unix_seconds());
    add.Gauge("pretrain_checkpoint_last_step", "Iteration of the newest checkpoint",
              static_cast<double>(checkpoint.step()));
    add.Gauge("pretrain_checkpoint_last_size_bytes", "Size of the newest checkpoint",
              static_cast<double>(checkpoint.size_bytes()));
  }
  for (const auto& [reason, count] : run.counters.bad_samples()) {
    add.Counter("pretrain_bad_samples_total", "Samples that were substituted",
                static_cast<double>(count), {{"reason", reason}});
  }
  add.Counter("pretrain_dropped_lines_total", "Lines that did not get into the run's records",
              static_cast<double>(run.dropped_lines));
}

}  // namespace

void Histogram::Observe(double value) {
  const auto bucket = std::lower_bound(upper_bounds_.begin(), upper_bounds_.end(), value);
  ++counts_[static_cast<size_t>(bucket - upper_bounds_.begin())];
  sum_ += value;
}

RunCounters::RunCounters(int64_t newest_step)
    : newest_step_(newest_step),
      step_seconds_({0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50}),
      phase_seconds_(kPhases.size(), Histogram({0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2,
                                                0.5, 1, 2, 5, 10})),
      recovery_seconds_({0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500}),
      checkpoint_seconds_({0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500}),
      checkpoint_stall_seconds_({0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10}) {}

void RunCounters::OnStep(const StepMetrics& metrics, int64_t samples_per_step) {
  if (metrics.step <= newest_step_) return;
  const int64_t num_steps = metrics.step - newest_step_;
  newest_step_ = metrics.step;
  steps_ += num_steps;
  samples_ += num_steps * samples_per_step;
  if (!(metrics.seconds_per_step > 0)) return;  // also for NaN
  step_seconds_.Observe(metrics.seconds_per_step);
  for (size_t i = 0; i < kPhases.size(); ++i) {
    phase_seconds_[i].Observe(metrics.phases.*kPhases[i].seconds);
  }
  data_wait_seconds_ += static_cast<double>(num_steps) * metrics.seconds_per_step *
                        std::clamp(metrics.data_wait_ratio, 0.0, 1.0);
}

void RunCounters::OnEvent(const Event& event) {
  if (event.kind == "recovery") {
    ++recoveries_[TextOf(event, "cause")];
    if (const auto seconds = NumberOf(event, "duration_s")) recovery_seconds_.Observe(*seconds);
  } else if (event.kind == "checkpoint_committed") {
    checkpoint_seconds_.Observe(NumberOf(event, "write_s").value_or(0) +
                                NumberOf(event, "commit_s").value_or(0) +
                                NumberOf(event, "verify_s").value_or(0));
    if (const auto stall = NumberOf(event, "stall_s")) checkpoint_stall_seconds_.Observe(*stall);
  }
}

void RunCounters::OnRestart(int64_t step) {
  lost_steps_ += std::max<int64_t>(0, newest_step_ - step);
  newest_step_ = step;
}

void RunCounters::OnBadSample(const std::string& json) {
  constexpr size_t kMaxReasons = 16;  // whatever workers say, the number of series is bounded
  const auto sample = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  std::string reason = "other";
  if (sample.is_object() && sample.contains("reason") && sample["reason"].is_string()) {
    reason = sample["reason"];
  }
  if (bad_samples_.size() >= kMaxReasons && !bad_samples_.contains(reason)) reason = "other";
  ++bad_samples_[reason];
}

void RunCounters::OnTime(v1::RunState state, double seconds) {
  all_seconds_ += seconds;
  if (state == v1::RUN_STATE_RUNNING) running_seconds_ += seconds;
}

std::string FormatMetrics(const RunMetrics& run) {
  Families families;
  AddTraining(run, families);
  AddMembership(run, families);
  AddStorage(run, families);
  families.Gauge("pretrain_run_info", "What runs; always 1", 1,
                 {{"run_id", run.status.run_id()},
                  {"state", StateName(run.status.state())},
                  {"virtual_ranks", std::to_string(run.status.virtual_ranks())},
                  {"batch_size", std::to_string(run.batch_size)},
                  {"device", run.device}});
  families.Gauge("pretrain_build_info", "The program; always 1", 1,
                 {{"version", ALBEF_VERSION}, {"compiler", __VERSION__}});
  return families.Text();
}

}  // namespace albef
