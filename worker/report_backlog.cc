#include "worker/report_backlog.h"

#include <fmt/format.h>

#include <utility>

namespace albef {

v1::WorkerMessage ReportBacklog::Add(int64_t incarnation, v1::TrainerMessage message) {
  const int64_t sequence = ++last_sequence_;
  const bool is_step = message.report().has_step();
  v1::WorkerMessage outer;
  outer.mutable_from_trainer()->set_incarnation(incarnation);
  outer.mutable_from_trainer()->set_sequence(sequence);
  *outer.mutable_from_trainer()->mutable_message() = std::move(message);
  num_bytes_ += outer.ByteSizeLong();
  reports_[sequence] = outer;
  if (is_step) steps_.push_back(sequence);
  while (num_bytes_ > max_bytes_ && !steps_.empty()) {
    GiveUp(steps_.front());
    steps_.pop_front();
  }
  while (num_bytes_ > max_bytes_) GiveUp(reports_.begin()->first);
  return outer;
}

void ReportBacklog::GiveUp(int64_t sequence) {
  const auto entry = reports_.find(sequence);
  if (entry == reports_.end()) return;
  num_bytes_ -= entry->second.ByteSizeLong();
  reports_.erase(entry);
  ++num_given_up_;
}

void ReportBacklog::Acknowledge(int64_t sequence) {
  while (!reports_.empty() && reports_.begin()->first <= sequence) {
    num_bytes_ -= reports_.begin()->second.ByteSizeLong();
    reports_.erase(reports_.begin());
  }
  while (!steps_.empty() && steps_.front() <= sequence) steps_.pop_front();
}

std::vector<v1::WorkerMessage> ReportBacklog::TakeUnacknowledged(int64_t incarnation) {
  if (num_given_up_ > num_told_) {
    v1::TrainerMessage message;
    v1::EventReport& event = *message.mutable_report()->mutable_event();
    event.set_kind("reports_dropped");
    event.set_reason(
        fmt::format("no coordinator took them, and more than {} bytes are not kept", max_bytes_));
    v1::Fact& fact = *event.add_facts();
    fact.set_key("reports");
    fact.set_integer(num_given_up_ - std::exchange(num_told_, num_given_up_));
    Add(incarnation, std::move(message));
  }
  std::vector<v1::WorkerMessage> messages;
  for (const auto& [sequence, report] : reports_) messages.push_back(report);
  return messages;
}

}  // namespace albef
