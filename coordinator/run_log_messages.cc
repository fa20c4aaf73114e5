#include "coordinator/run_log_messages.h"

#include <string>
#include <variant>

namespace albef {
namespace {

void SetValue(const EventValue& value, v1::Fact& fact) {
  if (const auto* integer = std::get_if<int64_t>(&value)) {
    fact.set_integer(*integer);
  } else if (const auto* real = std::get_if<double>(&value)) {
    fact.set_real(*real);
  } else if (const auto* truth = std::get_if<bool>(&value)) {
    fact.set_truth(*truth);
  } else {
    fact.set_text(std::get<std::string>(value));
  }
}

}  // namespace

v1::StepReport ReportOf(const StepMetrics& metrics) {
  v1::StepReport report;
  report.set_step(metrics.step);
  report.set_epoch(metrics.epoch);
  report.set_loss_mlm(metrics.loss_mlm);
  report.set_loss_itc(metrics.loss_itc);
  report.set_loss_itm(metrics.loss_itm);
  report.set_lr(metrics.lr);
  report.set_temp(metrics.temp);
  report.set_alpha(metrics.alpha);
  report.set_samples_per_second(metrics.samples_per_second);
  report.set_data_wait_ratio(metrics.data_wait_ratio);
  report.set_workers(metrics.workers);
  report.set_generation(metrics.generation);
  report.set_skipped(metrics.skipped);
  report.set_seconds_per_step(metrics.seconds_per_step);
  for (const Phase& phase : kPhases) {
    (*report.mutable_phase_seconds())[std::string(phase.name)] = metrics.phases.*phase.seconds;
  }
  return report;
}

StepMetrics MetricsOf(const v1::StepReport& report) {
  PhaseSeconds phases;
  for (const Phase& phase : kPhases) {
    const auto entry = report.phase_seconds().find(std::string(phase.name));
    if (entry != report.phase_seconds().end()) phases.*phase.seconds = entry->second;
  }
  return {.step = report.step(),
          .epoch = report.epoch(),
          .loss_mlm = report.loss_mlm(),
          .loss_itc = report.loss_itc(),
          .loss_itm = report.loss_itm(),
          .loss = report.loss_mlm() + report.loss_itc() + report.loss_itm(),
          .lr = report.lr(),
          .temp = report.temp(),
          .alpha = report.alpha(),
          .samples_per_second = report.samples_per_second(),
          .data_wait_ratio = report.data_wait_ratio(),
          .workers = report.workers(),
          .generation = report.generation(),
          .skipped = report.skipped(),
          .seconds_per_step = report.seconds_per_step(),
          .phases = phases};
}

v1::EventReport ReportOf(const Event& event) {
  v1::EventReport report;
  report.set_kind(event.kind);
  report.set_reason(event.reason);
  for (const auto& [key, value] : event.facts) {
    v1::Fact& fact = *report.add_facts();
    fact.set_key(key);
    SetValue(value, fact);
  }
  return report;
}

Event EventOf(const v1::EventReport& report) {
  Event event{.kind = report.kind(), .reason = report.reason(), .facts = {}};
  for (const v1::Fact& fact : report.facts()) {
    switch (fact.value_case()) {
      case v1::Fact::kInteger:
        event.facts.emplace_back(fact.key(), fact.integer());
        break;
      case v1::Fact::kReal:
        event.facts.emplace_back(fact.key(), fact.real());
        break;
      case v1::Fact::kTruth:
        event.facts.emplace_back(fact.key(), fact.truth());
        break;
      case v1::Fact::kText:
        event.facts.emplace_back(fact.key(), fact.text());
        break;
      case v1::Fact::VALUE_NOT_SET:
        break;
    }
  }
  return event;
}

}  // namespace albef
