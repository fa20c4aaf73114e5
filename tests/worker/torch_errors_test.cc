#include "worker/torch_errors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/types.h>

#include <limits>

#include "common/exit_code.h"

namespace albef {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

TEST(TorchErrors, MemoryThatRunsOutEndsTheRunWithTheKeysThatHelp) {
  const absl::Status thrown = CatchExceptions([]() -> absl::Status {
    torch::empty({std::numeric_limits<int64_t>::max() / 16}, torch::kFloat32);
    return absl::OkStatus();
  });
  const absl::Status loader =
      FromLoader(absl::ResourceExhaustedError("cannot load image a.jpg in 5 attempts: no memory"));
  EXPECT_THAT(MessageOf(loader), HasSubstr("a.jpg"));
  for (const absl::Status& status : {thrown, loader}) {
    EXPECT_EQ(ExitCodeFor(status), ExitCode::kFailed) << status;
    EXPECT_THAT(MessageOf(status),
                AllOf(HasSubstr("out of memory"), HasSubstr("activation_checkpointing: blocks"),
                      HasSubstr("batch_size"), HasSubstr("image_res"),
                      HasSubstr("data.prefetch_batches"), HasSubstr("data.num_threads")));
  }
}

TEST(TorchErrors, TooManyBadSamplesEndTheRun) {
  const absl::Status status = FromLoader(absl::DataLossError("7 of 100 samples are bad"));
  EXPECT_EQ(ExitCodeFor(status), ExitCode::kFailed);
  EXPECT_EQ(MessageOf(status), "7 of 100 samples are bad");
}

TEST(TorchErrors, TroubleOfStorageStaysWhatItIs) {
  const absl::Status status = absl::UnavailableError("/nfs/a.jpg: Stale file handle");
  EXPECT_EQ(FromLoader(status), status);
  EXPECT_EQ(ExitCodeFor(FromLoader(status)), ExitCode::kStorage);
}

}  // namespace
}  // namespace albef
