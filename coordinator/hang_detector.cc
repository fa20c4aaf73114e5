#include "coordinator/hang_detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <string_view>

namespace albef {
namespace {

double Seconds(MonotonicDuration duration) {
  return std::chrono::duration<double>(duration).count();
}

bool WaitsForOthers(const v1::Activity& activity) {
  return activity.section() == v1::Activity::SECTION_EXCHANGE ||
         activity.section() == v1::Activity::SECTION_IDLE;
}

std::string SectionName(const v1::Activity& activity) {
  constexpr std::string_view kPrefix = "SECTION_";
  std::string name = v1::Activity::Section_Name(activity.section()).substr(kPrefix.size());
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

// Why the trainer is stuck by its own fault; empty: it is not.
std::string Fault(const WatchedTrainer& trainer, const HangLimits& limits) {
  if (!trainer.activity.has_value()) {
    if (trainer.silent_for <= limits.startup_limit) return "";
    return fmt::format("no sign of life {:.0f} s after its start", Seconds(trainer.silent_for));
  }
  const v1::Activity& activity = *trainer.activity;
  if (trainer.silent_for > limits.hang_limit) {
    return fmt::format("silent for {:.1f} s in {} at step {}: stopped?",
                       Seconds(trainer.silent_for), SectionName(activity), activity.iteration());
  }
  const double limit_s = activity.section_limit_seconds();
  if (!WaitsForOthers(activity) && limit_s > 0 && activity.section_seconds() > limit_s) {
    return fmt::format("stuck in {} at step {} for {:.1f} s, limit {:.1f} s", SectionName(activity),
                       activity.iteration(), activity.section_seconds(), limit_s);
  }
  if (trainer.leaving_for.has_value()) {
    const bool waits = WaitsForOthers(activity) && *trainer.leaving_for > limits.WaitLimit() &&
                       activity.section_seconds() > Seconds(limits.hang_limit);
    if (waits || *trainer.leaving_for > limits.startup_limit) {
      return fmt::format("has not left its generation for {:.1f} s, in {} at step {}",
                         Seconds(*trainer.leaving_for), SectionName(activity),
                         activity.iteration());
    }
  }
  return "";
}

}  // namespace

std::vector<Culprit> FindCulprits(std::span<const WatchedTrainer> trainers,
                                  const HangLimits& limits) {
  std::vector<Culprit> culprits;
  for (const WatchedTrainer& trainer : trainers) {
    std::string fault = Fault(trainer, limits);
    if (!fault.empty()) culprits.push_back({trainer.worker_id, std::move(fault)});
  }
  return culprits;
}

bool AllWaitTooLong(std::span<const WatchedTrainer> members, const HangLimits& limits) {
  return !members.empty() &&
         std::all_of(members.begin(), members.end(), [&](const WatchedTrainer& member) {
           return member.activity.has_value() && WaitsForOthers(*member.activity) &&
                  member.activity->section_seconds() > Seconds(limits.WaitLimit());
         });
}

}  // namespace albef
