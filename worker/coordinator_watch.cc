#include "worker/coordinator_watch.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/format_absl.h"

namespace albef {
namespace {

// What another attempt with the same facts can change, a stale coordinator that ends soon.
bool IsRefusal(const absl::Status& status) {
  return absl::IsFailedPrecondition(status) || absl::IsUnauthenticated(status) ||
         absl::IsPermissionDenied(status) || absl::IsInvalidArgument(status);
}

}  // namespace

CoordinatorWatch::CoordinatorWatch(Options options, Time now)
    : options_(options), lost_at_(now), sign_at_(now) {}

void CoordinatorWatch::OnWelcome(int64_t term, Time now) {
  is_connected_ = true;
  term_ = std::max(term_, term);
  newest_term_ = std::max(newest_term_, term);
  sign_at_ = now;
  refused_since_.reset();
  own_died_at_.reset();
  own_is_new_ = false;
  num_starts_ = 0;
  led_at_.reset();
}

void CoordinatorWatch::OnClosed(const absl::Status& status, Time now) {
  if (is_connected_) {
    lost_at_ = sign_at_ = now;
    // What the first look finds may have been the last beat.
    sighting_.pulse.reset();
  }
  is_connected_ = false;
  last_failure_ = status;
  if (!IsRefusal(status)) {
    refused_since_.reset();
    return;
  }
  refusal_ = status;
  if (!refused_since_.has_value()) refused_since_ = now;
}

void CoordinatorWatch::OnSighting(const CoordinatorSighting& sighting, Time now) {
  if (sighting.newest_term > newest_term_) {
    newest_term_ = sighting.newest_term;
    sign_at_ = now;
  }
  const bool beats = sighting.pulse.has_value() && sighting_.pulse.has_value() &&
                     *sighting.pulse != *sighting_.pulse;
  if (!is_connected_ && beats && sighting.pulse->has_most && sighting.pulse->term >= newest_term_) {
    led_at_ = sign_at_ = now;
  }
  sighting_ = sighting;
  has_looked_ = true;
}

void CoordinatorWatch::OnStarted(pid_t pid, Time now) {
  own_pids_.insert(pid);
  own_is_alive_ = true;
  own_is_new_ = true;
  own_died_at_.reset();
  sign_at_ = now;
  ++num_starts_;
}

void CoordinatorWatch::OnExited(bool has_lost, const std::string& how, Time now) {
  own_is_alive_ = false;
  own_is_new_ = false;
  if (has_lost) return;
  own_died_at_ = now;
  has_looked_ = false;
  last_failure_ = absl::UnavailableError("the coordinator " + how);
}

// Whether the coordinator of ours that died was the run's newest. A term that was claimed by one
// that has not said where it is may be another worker's.
bool CoordinatorWatch::OwnWasNewest() const {
  if (sighting_.file.term == 0) return !WasWelcomed();
  return own_pids_.contains(sighting_.file.pid) && sighting_.file.term >= newest_term_;
}

bool CoordinatorWatch::AreOthersLed(Time now) const {
  return led_at_.has_value() && now - *led_at_ < Duration(kPulseLimit);
}

CoordinatorWatch::Duration CoordinatorWatch::Patience() const {
  Duration turn = options_.patience_per_order * std::max<int64_t>(options_.order, 0);
  if (led_at_.has_value()) turn += options_.starting;
  const int64_t awaited = std::max<int64_t>(newest_term_ - term_, own_is_new_ ? num_starts_ : 0);
  if (awaited == 0) return options_.patience + turn;
  constexpr int64_t kMaxDoublings = 5;
  return options_.starting * (1 << std::min(awaited - 1, kMaxDoublings)) + turn;
}

CoordinatorWatch::Decision CoordinatorWatch::Decide(Time now) {
  if (is_connected_) return {};
  constexpr Duration kEndPatience = std::chrono::seconds(1);
  if (sighting_.ended.has_value() && now - lost_at_ >= kEndPatience && !own_is_alive_) {
    return {.action = Action::kRunEnded, .ended = *sighting_.ended};
  }
  if (refused_since_.has_value() &&
      (absl::IsInvalidArgument(refusal_) || now - *refused_since_ >= options_.refusal)) {
    return {.action = Action::kRefused, .status = refusal_};
  }
  const std::string why =
      sighting_.address.empty() ? sighting_.trouble : std::string(last_failure_.message());
  if (now - lost_at_ >= options_.wait) {
    return {.action = Action::kGiveUp,
            .status = absl::UnavailableError(
                fmt::format("no coordinator for {:.0f} s (elastic.coordinator_wait_s){}: {}",
                            std::chrono::duration<double>(options_.wait).count(),
                            sighting_.address.empty() ? "" : " at " + sighting_.address, why))};
  }
  if (!options_.is_embedded) return {};

  if (own_died_at_.has_value() && has_looked_ && OwnWasNewest()) {
    if (num_starts_ >= options_.max_starts) {
      return {.action = Action::kGiveUp,
              .status = absl::AbortedError(fmt::format(
                  "the coordinator was started {} times and ended before anybody met it: {}",
                  num_starts_, last_failure_.message()))};
    }
    // At once, but not in a tight circle.
    constexpr Duration kFirstPause = std::chrono::milliseconds(250);
    const Duration pause = num_starts_ <= 1 ? Duration::zero() : kFirstPause * (1 << num_starts_);
    if (now - *own_died_at_ < pause) return {};
    Decision decision{.action = Action::kStart};
    // Before anybody of this start was met, the run may be another one's: then it must be refused.
    if (WasWelcomed() || sighting_.file.term != 0) decision.after_term = newest_term_;
    return decision;
  }
  if (!WasWelcomed() || AreOthersLed(now)) return {};
  if (now - sign_at_ < Patience()) return {};
  return {.action = Action::kStart, .after_term = newest_term_};
}

}  // namespace albef
