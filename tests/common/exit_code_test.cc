#include "common/exit_code.h"

#include <gtest/gtest.h>

#include <map>

namespace albef {
namespace {

TEST(ExitCodeFor, SaysOfEveryStatusWhatAScriptShouldDo) {
  using absl::StatusCode;
  const std::map<StatusCode, ExitCode> expected = {
      {StatusCode::kOk, ExitCode::kDone},
      {StatusCode::kInvalidArgument, ExitCode::kUsage},
      {StatusCode::kNotFound, ExitCode::kUsage},
      {StatusCode::kFailedPrecondition, ExitCode::kUsage},
      {StatusCode::kOutOfRange, ExitCode::kUsage},
      {StatusCode::kResourceExhausted, ExitCode::kStorage},
      {StatusCode::kUnavailable, ExitCode::kStorage},
      {StatusCode::kPermissionDenied, ExitCode::kStorage},
      {StatusCode::kDataLoss, ExitCode::kStorage},
      {StatusCode::kAborted, ExitCode::kFailed},
      {StatusCode::kCancelled, ExitCode::kOther},
      {StatusCode::kUnknown, ExitCode::kOther},
      {StatusCode::kDeadlineExceeded, ExitCode::kOther},
      {StatusCode::kAlreadyExists, ExitCode::kOther},
      {StatusCode::kUnimplemented, ExitCode::kOther},
      {StatusCode::kInternal, ExitCode::kOther},
      {StatusCode::kUnauthenticated, ExitCode::kOther},
  };
  for (const auto& [code, exit_code] : expected) {
    EXPECT_EQ(ExitCodeFor(absl::Status(code, "message")), exit_code)
        << absl::StatusCodeToString(code);
  }
}

// Scripts and schedulers compare the numbers.
TEST(ExitCode, HasTheNumbersOfTheCommandLineContract) {
  EXPECT_EQ(static_cast<int>(ExitCode::kDone), 0);
  EXPECT_EQ(static_cast<int>(ExitCode::kOther), 1);
  EXPECT_EQ(static_cast<int>(ExitCode::kUsage), 64);
  EXPECT_EQ(static_cast<int>(ExitCode::kStorage), 74);
  EXPECT_EQ(static_cast<int>(ExitCode::kPreempted), 75);
  EXPECT_EQ(static_cast<int>(ExitCode::kFailed), 93);
  EXPECT_EQ(static_cast<int>(ExitCode::kInterrupted), 130);
}

}  // namespace
}  // namespace albef
