// Reports on their way to the coordinator, kept until it has recorded them.
//
// Every report gets a number, ascending over the life of the supervisor; the coordinator
// acknowledges them in order, and a new session repeats what is not acknowledged. Memory is
// bounded: beyond `max_bytes` the oldest reports of steps are given up and counted (every rank
// sends the same ones), and only when none is left, others. How many were given up becomes a
// report itself.
//
// Pure: no I/O. For one thread at a time.
#ifndef ALBEF_WORKER_REPORT_BACKLOG_H_
#define ALBEF_WORKER_REPORT_BACKLOG_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "proto/coordinator.pb.h"

namespace albef {

class ReportBacklog {
 public:
  static constexpr size_t kMaxBytes = size_t{16} << 20;

  explicit ReportBacklog(size_t max_bytes = kMaxBytes) : max_bytes_(max_bytes) {}

  // `message` holds a report. What to send.
  v1::WorkerMessage Add(int64_t incarnation, v1::TrainerMessage message);

  // `sequence` and all before it are recorded.
  void Acknowledge(int64_t sequence);

  // For a new session, in order. Reports that were given up since the last call are told in an
  // event at the end.
  std::vector<v1::WorkerMessage> TakeUnacknowledged(int64_t incarnation);

  size_t num_bytes() const { return num_bytes_; }
  int64_t num_given_up() const { return num_given_up_; }  // in all

 private:
  void GiveUp(int64_t sequence);

  const size_t max_bytes_;
  int64_t last_sequence_ = 0;
  std::map<int64_t, v1::WorkerMessage> reports_;
  std::deque<int64_t> steps_;  // of reports_, ascending; those that are gone may still be named
  size_t num_bytes_ = 0;
  int64_t num_given_up_ = 0;
  int64_t num_told_ = 0;  // of those given up
};

}  // namespace albef

#endif  // ALBEF_WORKER_REPORT_BACKLOG_H_
