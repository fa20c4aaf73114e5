#include "comm/nccl_api.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace albef {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(NcclApi, AMissingLibraryIsRefusedWithTheRemedy) {
  const absl::StatusOr<NcclApi> nccl = LoadNccl("libnccl-missing.so.2");
  ASSERT_EQ(nccl.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(nccl.status()),
              AllOf(HasSubstr("libnccl-missing.so.2"), HasSubstr("deploy/install-deps.sh --cuda"),
                    HasSubstr("LD_LIBRARY_PATH")));
}

TEST(NcclApi, ALibraryThatIsNotNcclIsRefused) {
  const absl::StatusOr<NcclApi> nccl = LoadNccl("libm.so.6");
  ASSERT_EQ(nccl.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(nccl.status()), HasSubstr("libm.so.6: no function ncclGetVersion"));
}

TEST(NcclApi, VersionsThatLackSomethingOrAreBrokenAreRefused) {
  for (const int version : {2408, 21000, 21399, 22803, 22805, 22808}) {
    EXPECT_EQ(CheckNcclVersion(version).code(), absl::StatusCode::kFailedPrecondition) << version;
  }
  for (const int version : {21400, 21805, 22105, 22707, 22802, 22809, 22902, 30000}) {
    EXPECT_TRUE(CheckNcclVersion(version).ok()) << version;
  }
  EXPECT_THAT(Message(CheckNcclVersion(22805)),
              AllOf(HasSubstr("NCCL 2.28.5 is known to be broken"), HasSubstr("2.28.9")));
  EXPECT_THAT(Message(CheckNcclVersion(2408)), HasSubstr("NCCL 2.4.8 cannot end an operation"));
}

}  // namespace
}  // namespace albef
