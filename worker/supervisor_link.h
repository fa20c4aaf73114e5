// A trainer's connection to its supervisor: a thread that reads what the coordinator wants, and one
// that says every 200 ms what the trainer is busy with, whatever the others are doing.
//
// Send() may be called from any thread. A message that cannot be sent is dropped: then the
// supervisor is gone, and the inbox closed.
#ifndef ALBEF_WORKER_SUPERVISOR_LINK_H_
#define ALBEF_WORKER_SUPERVISOR_LINK_H_

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "common/file.h"
#include "coordinator/run_log.h"
#include "worker/activity.h"
#include "worker/control_socket.h"
#include "worker/inbox.h"

namespace albef {

class SupervisorLink final : public RunLog {
 public:
  // Called on the reading thread when the generation last assigned is to be left, at once.
  using LeaveCallback = std::function<void(const v1::Assign& assigned)>;

  SupervisorLink(FileDescriptor socket, const ActivityTracker* activity, LeaveCallback leave);
  ~SupervisorLink() override;

  SupervisorLink(const SupervisorLink&) = delete;
  SupervisorLink& operator=(const SupervisorLink&) = delete;

  Inbox& inbox() { return inbox_; }

  void Send(const v1::TrainerMessage& message);

  // The records of a run's log, as reports to the coordinator's recorder.
  void RestartAfter(int64_t step, const std::string& reason) override;
  void RecordStep(const StepMetrics& metrics) override;
  void RecordEvent(const Event& event) override;
  void RecordBadSample(std::string json) override;

 private:
  void Read();
  void ReportActivity();

  ControlSocket socket_;
  const ActivityTracker* const activity_;
  const LeaveCallback leave_;
  Inbox inbox_;
  std::mutex mutex_;
  std::condition_variable stopping_;
  bool is_stopping_ = false;  // guarded by mutex_
  std::thread reader_;        // last: they use all of the above
  std::thread reporter_;
};

}  // namespace albef

#endif  // ALBEF_WORKER_SUPERVISOR_LINK_H_
