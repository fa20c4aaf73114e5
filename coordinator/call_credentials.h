// What a call must carry, and how absl::Status and grpc::Status become each other.
#ifndef ALBEF_COORDINATOR_CALL_CREDENTIALS_H_
#define ALBEF_COORDINATOR_CALL_CREDENTIALS_H_

#include <grpcpp/grpcpp.h>

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "common/secret.h"
#include "coordinator/run_token.h"

namespace albef {

inline grpc::Status ToGrpc(const absl::Status& status) {
  return {static_cast<grpc::StatusCode>(status.code()), std::string(status.message())};
}

inline absl::Status FromGrpc(const grpc::Status& status) {
  return {static_cast<absl::StatusCode>(status.error_code()), status.error_message()};
}

// UNAUTHENTICATED for a call without the run's token.
inline grpc::Status CheckToken(const grpc::CallbackServerContext& context, std::string_view token) {
  const auto entry = context.client_metadata().find("authorization");
  if (entry != context.client_metadata().end() &&
      SecretsEqual({entry->second.data(), entry->second.size()}, AuthorizationOf(token))) {
    return grpc::Status::OK;
  }
  return {grpc::StatusCode::UNAUTHENTICATED,
          "the call does not carry the token of this run; it is in RUN_DIR/secrets/token and is "
          "sent as metadata \"authorization: Bearer TOKEN\""};
}

}  // namespace albef

#endif  // ALBEF_COORDINATOR_CALL_CREDENTIALS_H_
