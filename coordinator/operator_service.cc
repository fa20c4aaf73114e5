#include "coordinator/operator_service.h"

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "coordinator/call_credentials.h"

namespace albef {
namespace {

// A call that is answered once, later, from any thread; or ended by its caller before. Answers hold
// it, so it may be answered after its end.
template <typename Response>
class Call final : public grpc::ServerUnaryReactor {
 public:
  using Answer = std::function<void(absl::StatusOr<Response>)>;
  // Asks the driver; returns a ticket to cancel, or 0.
  using Ask = std::function<RunDriver::Ticket(Answer)>;

  static grpc::ServerUnaryReactor* Start(RunDriver* driver, const grpc::Status& admission,
                                         Response* response, const Ask& ask) {
    auto call = std::make_shared<Call>(driver, response);
    Call* const raw = call.get();
    call->self_ = call;
    if (!admission.ok()) {
      call->FinishOnce(admission);
      return raw;
    }
    const RunDriver::Ticket ticket = ask([call](absl::StatusOr<Response> answer) {
      const std::lock_guard lock(call->mutex_);
      if (call->is_finished_) return;
      if (answer.ok()) *call->response_ = *std::move(answer);
      call->FinishLocked(ToGrpc(answer.status()));
    });
    const std::lock_guard lock(call->mutex_);
    call->ticket_ = ticket;
    return raw;
  }

  Call(RunDriver* driver, Response* response) : driver_(driver), response_(response) {}

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    if (ticket_ != 0) driver_->Cancel(ticket_);
    if (!is_finished_) FinishLocked(grpc::Status::CANCELLED);
  }

  void OnDone() override { self_.reset(); }

 private:
  void FinishOnce(const grpc::Status& status) {
    const std::lock_guard lock(mutex_);
    if (!is_finished_) FinishLocked(status);
  }
  void FinishLocked(const grpc::Status& status) {
    is_finished_ = true;
    Finish(status);
  }

  RunDriver* const driver_;
  Response* const response_;  // valid until it is finished
  std::shared_ptr<Call> self_;
  std::mutex mutex_;
  RunDriver::Ticket ticket_ = 0;  // guarded by mutex_, as the next
  bool is_finished_ = false;
};

// Keeps the newest status only, for a watcher that reads slowly.
class StatusWatch final : public grpc::ServerWriteReactor<v1::RunStatus> {
 public:
  explicit StatusWatch(RunDriver* driver) : driver_(driver) {}

  static StatusWatch* Start(RunDriver* driver, const grpc::Status& admission) {
    auto watch = std::make_shared<StatusWatch>(driver);
    StatusWatch* const raw = watch.get();
    watch->self_ = watch;
    if (!admission.ok()) {
      watch->is_finished_ = true;
      watch->Finish(admission);
      return raw;
    }
    const RunDriver::Ticket ticket = driver->WatchStatus(
        [watch](const v1::RunStatus& status, bool is_last) { watch->OnStatus(status, is_last); });
    const std::lock_guard lock(watch->mutex_);
    watch->ticket_ = ticket;
    return raw;
  }

  void OnWriteDone(bool is_ok) override {
    const std::lock_guard lock(mutex_);
    is_writing_ = false;
    if (!is_ok) return FinishLocked(grpc::Status::CANCELLED);
    if (next_.has_value()) return WriteNext();
    if (was_last_) FinishLocked(grpc::Status::OK);
  }

  void OnCancel() override {
    const std::lock_guard lock(mutex_);
    driver_->Cancel(ticket_);
    if (!is_writing_) FinishLocked(grpc::Status::CANCELLED);
  }

  void OnDone() override { self_.reset(); }

 private:
  void OnStatus(const v1::RunStatus& status, bool is_last) {
    const std::lock_guard lock(mutex_);
    if (is_finished_) return;
    next_ = status;
    was_last_ = is_last;
    if (!is_writing_) WriteNext();
  }

  void WriteNext() {
    writing_ = *std::exchange(next_, std::nullopt);
    is_writing_ = true;
    StartWrite(&writing_);
  }

  void FinishLocked(const grpc::Status& status) {
    if (!std::exchange(is_finished_, true)) Finish(status);
  }

  RunDriver* const driver_;
  std::shared_ptr<StatusWatch> self_;
  std::mutex mutex_;  // guards what follows
  RunDriver::Ticket ticket_ = 0;
  std::optional<v1::RunStatus> next_;
  v1::RunStatus writing_;
  bool is_writing_ = false;
  bool was_last_ = false;
  bool is_finished_ = false;
};

}  // namespace

grpc::ServerUnaryReactor* OperatorService::GetStatus(grpc::CallbackServerContext* context,
                                                     const v1::GetStatusRequest*,
                                                     v1::RunStatus* response) {
  return Call<v1::RunStatus>::Start(
      driver_, CheckToken(*context, token_), response,
      [this](Call<v1::RunStatus>::Answer answer) -> RunDriver::Ticket {
        driver_->GetStatus(std::move(answer));
        return 0;
      });
}

grpc::ServerWriteReactor<v1::RunStatus>* OperatorService::WatchStatus(
    grpc::CallbackServerContext* context, const v1::GetStatusRequest*) {
  return StatusWatch::Start(driver_, CheckToken(*context, token_));
}

grpc::ServerUnaryReactor* OperatorService::ListWorkers(grpc::CallbackServerContext* context,
                                                       const v1::ListWorkersRequest*,
                                                       v1::ListWorkersResponse* response) {
  return Call<v1::ListWorkersResponse>::Start(
      driver_, CheckToken(*context, token_), response,
      [this](Call<v1::ListWorkersResponse>::Answer answer) -> RunDriver::Ticket {
        driver_->ListWorkers(std::move(answer));
        return 0;
      });
}

grpc::ServerUnaryReactor* OperatorService::ListCheckpoints(grpc::CallbackServerContext* context,
                                                           const v1::ListCheckpointsRequest*,
                                                           v1::ListCheckpointsResponse* response) {
  return Call<v1::ListCheckpointsResponse>::Start(
      driver_, CheckToken(*context, token_), response,
      [this](const Call<v1::ListCheckpointsResponse>::Answer& answer) -> RunDriver::Ticket {
        v1::ListCheckpointsResponse list;
        for (v1::Checkpoint& checkpoint : driver_->ListCheckpoints()) {
          *list.add_checkpoints() = std::move(checkpoint);
        }
        answer(std::move(list));
        return 0;
      });
}

grpc::ServerUnaryReactor* OperatorService::TakeCheckpoint(grpc::CallbackServerContext* context,
                                                          const v1::TakeCheckpointRequest*,
                                                          v1::Checkpoint* response) {
  return Call<v1::Checkpoint>::Start(driver_, CheckToken(*context, token_), response,
                                     [this](Call<v1::Checkpoint>::Answer answer) {
                                       return driver_->TakeCheckpoint(std::move(answer));
                                     });
}

grpc::ServerUnaryReactor* OperatorService::Pause(grpc::CallbackServerContext* context,
                                                 const v1::PauseRequest*, v1::RunStatus* response) {
  return Call<v1::RunStatus>::Start(
      driver_, CheckToken(*context, token_), response,
      [this](Call<v1::RunStatus>::Answer answer) { return driver_->Pause(std::move(answer)); });
}

grpc::ServerUnaryReactor* OperatorService::Resume(grpc::CallbackServerContext* context,
                                                  const v1::ResumeRequest*,
                                                  v1::RunStatus* response) {
  return Command(context, RunCommand::kResume, "", response);
}

grpc::ServerUnaryReactor* OperatorService::Drain(grpc::CallbackServerContext* context,
                                                 const v1::DrainRequest* request,
                                                 v1::RunStatus* response) {
  return Command(context,
                 request->worker().empty() ? RunCommand::kDrainRun : RunCommand::kDrainWorker,
                 request->worker(), response);
}

grpc::ServerUnaryReactor* OperatorService::Stop(grpc::CallbackServerContext* context,
                                                const v1::StopRequest*, v1::RunStatus* response) {
  return Command(context, RunCommand::kStop, "", response);
}

grpc::ServerUnaryReactor* OperatorService::Command(grpc::CallbackServerContext* context,
                                                   RunCommand command, std::string argument,
                                                   v1::RunStatus* response) {
  return Call<v1::RunStatus>::Start(driver_, CheckToken(*context, token_), response,
                                    [&](Call<v1::RunStatus>::Answer answer) -> RunDriver::Ticket {
                                      driver_->Command(command, std::move(argument),
                                                       std::move(answer));
                                      return 0;
                                    });
}

}  // namespace albef
