// The gRPC side of operators' calls: questions and commands to RunDriver, answered when they are
// done, or when the caller does not wait any more.
#ifndef ALBEF_COORDINATOR_OPERATOR_SERVICE_H_
#define ALBEF_COORDINATOR_OPERATOR_SERVICE_H_

#include <string>
#include <utility>

#include "coordinator/run_driver.h"
#include "proto/coordinator.grpc.pb.h"

namespace albef {

class OperatorService final : public v1::Operator::CallbackService {
 public:
  // `driver` must outlive all calls: shut the server down first.
  OperatorService(RunDriver* driver, std::string token)
      : driver_(driver), token_(std::move(token)) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context,
                                      const v1::GetStatusRequest* request,
                                      v1::RunStatus* response) override;
  grpc::ServerWriteReactor<v1::RunStatus>* WatchStatus(
      grpc::CallbackServerContext* context, const v1::GetStatusRequest* request) override;
  grpc::ServerUnaryReactor* ListWorkers(grpc::CallbackServerContext* context,
                                        const v1::ListWorkersRequest* request,
                                        v1::ListWorkersResponse* response) override;
  grpc::ServerUnaryReactor* ListCheckpoints(grpc::CallbackServerContext* context,
                                            const v1::ListCheckpointsRequest* request,
                                            v1::ListCheckpointsResponse* response) override;
  grpc::ServerUnaryReactor* TakeCheckpoint(grpc::CallbackServerContext* context,
                                           const v1::TakeCheckpointRequest* request,
                                           v1::Checkpoint* response) override;
  grpc::ServerUnaryReactor* Pause(grpc::CallbackServerContext* context,
                                  const v1::PauseRequest* request,
                                  v1::RunStatus* response) override;
  grpc::ServerUnaryReactor* Resume(grpc::CallbackServerContext* context,
                                   const v1::ResumeRequest* request,
                                   v1::RunStatus* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::RunStatus* response) override;
  grpc::ServerUnaryReactor* Stop(grpc::CallbackServerContext* context,
                                 const v1::StopRequest* request, v1::RunStatus* response) override;

 private:
  grpc::ServerUnaryReactor* Command(grpc::CallbackServerContext* context, RunCommand command,
                                    std::string argument, v1::RunStatus* response);

  RunDriver* const driver_;
  const std::string token_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_OPERATOR_SERVICE_H_
