// The gRPC side of workers' sessions: streams to and from RunDriver.
//
// A session is read again only when its message before was dealt with, so what workers send can
// pile up in their own buffers only. What is sent to a worker that does not read is bounded; beyond
// that its session ends.
#ifndef ALBEF_COORDINATOR_SESSION_SERVICE_H_
#define ALBEF_COORDINATOR_SESSION_SERVICE_H_

#include <grpcpp/grpcpp.h>

#include <string>
#include <utility>

#include "coordinator/run_driver.h"
#include "proto/coordinator.grpc.pb.h"

namespace albef {

// Messages are read and written as bytes, so that what many workers are sent is kept once.
class SessionService final
    : public v1::WorkerSession::WithRawCallbackMethod_Session<v1::WorkerSession::Service> {
 public:
  // `driver` must outlive all streams: shut the server down first.
  SessionService(RunDriver* driver, std::string token)
      : driver_(driver), token_(std::move(token)) {}

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override;

 private:
  RunDriver* const driver_;
  const std::string token_;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_SESSION_SERVICE_H_
