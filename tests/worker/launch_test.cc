#include "worker/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "common/network_address.h"
#include "common/resources.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

Environment Of(std::map<std::string, std::string> values) {
  return [values = std::move(values)](const char* name) -> const char* {
    const auto entry = values.find(name);
    return entry == values.end() ? nullptr : entry->second.c_str();
  };
}

TEST(Launch, ByHandAloneItIsTheFirstOfOne) {
  const auto launch = LaunchedOtherwise(Of({}), /*has_coordinator=*/false, 7);
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->order, 0);
  EXPECT_EQ(launch->expected_workers, 1);
  EXPECT_EQ(launch->stale_term, 7);
}

TEST(Launch, ByHandWithACoordinatorItHasNoOrder) {
  const auto launch = LaunchedOtherwise(Of({}), /*has_coordinator=*/true, 7);
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->order, -1);
  EXPECT_EQ(launch->expected_workers, 0);
}

TEST(Launch, UnderSrunOnlyTheFirstKnowsWhichTermsAreOld) {
  std::map<std::string, std::string> values = {
      {"SLURM_PROCID", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"SLURM_STEP_NUM_NODES", "2"}};
  auto launch = LaunchedOtherwise(Of(values), false, 7);
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->order, 0);
  EXPECT_EQ(launch->expected_workers, 4);
  EXPECT_TRUE(launch->spans_hosts);
  EXPECT_EQ(launch->stale_term, 7);
  values["SLURM_PROCID"] = "3";
  launch = LaunchedOtherwise(Of(values), false, 7);
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->order, 3);
  EXPECT_EQ(launch->stale_term, 0);
}

TEST(Launch, ABatchScriptIsNoTaskOfSrun) {
  const auto launch =
      LaunchedOtherwise(Of({{"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "8"}}), false, 0);
  ASSERT_TRUE(launch.ok());
  EXPECT_EQ(launch->expected_workers, 1);
}

TEST(Launch, NamesAVariableThatIsNoNumber) {
  const auto launch =
      LaunchedOtherwise(Of({{"SLURM_PROCID", "one"}, {"SLURM_STEP_NUM_TASKS", "4"}}), false, 0);
  EXPECT_EQ(launch.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(launch.status().message()), HasSubstr("SLURM_PROCID=\"one\""));
}

TEST(Launch, OneRankThatCannotStartEndsAll) {
  const Launch launch = LaunchedByMpirun({.rank = 1, .size = 3, .exit_code = 64, .failed_rank = 2});
  EXPECT_EQ(launch.exit_code, 64);
  EXPECT_THAT(launch.reason, HasSubstr("rank 2 of 3"));
}

TEST(Launch, KnowsTheRankOnTheMachineWhereTheLauncherDoes) {
  EXPECT_EQ(LaunchedByMpirun({.rank = 5, .size = 8, .local_rank = 1}).local_rank, 1);
  std::map<std::string, std::string> values = {
      {"SLURM_PROCID", "5"}, {"SLURM_STEP_NUM_TASKS", "8"}, {"SLURM_LOCALID", "1"}};
  EXPECT_EQ(LaunchedOtherwise(Of(values), false, 0)->local_rank, 1);
  EXPECT_EQ(LaunchedOtherwise(Of({}), true, 0)->local_rank, 0);
}

TEST(NetworkAddress, TakesHostsFromAddresses) {
  EXPECT_EQ(HostOf("127.0.0.1:80"), "127.0.0.1");
  EXPECT_EQ(HostOf("node7:4711"), "node7");
  EXPECT_EQ(HostOf("[::1]:80"), "::1");
  EXPECT_EQ(HostOf("ipv4:10.0.0.1:5"), "10.0.0.1");
}

TEST(NetworkAddress, KnowsLoopback) {
  EXPECT_TRUE(IsLoopback("127.0.0.1"));
  EXPECT_TRUE(IsLoopback("127.8.9.10"));
  EXPECT_TRUE(IsLoopback("::1"));
  EXPECT_TRUE(IsLoopback("localhost"));
  EXPECT_FALSE(IsLoopback("128.0.0.1"));
  EXPECT_FALSE(IsLoopback("node127"));
}

TEST(NetworkAddress, FindsTheWayBackFromACoordinator) {
  EXPECT_EQ(LocalAddressTowards("127.0.0.1:80").value_or(""), "127.0.0.1");
  EXPECT_EQ(LocalAddressTowards("localhost:80").value_or(""), "127.0.0.1");
  EXPECT_FALSE(LocalAddressTowards("no-such-host.invalid:80").ok());
}

TEST(NetworkAddress, OthersAreNeverToldAnAddressOfTheLoopback) {
  const absl::StatusOr<std::string> address = AddressForOthers();
  if (address.ok()) {
    EXPECT_FALSE(IsLoopback(*address)) << *address;
    // Wherever this machine's own name leads on this machine.
    EXPECT_FALSE(IsLoopback(LocalAddressTowards(HostName() + ":80").value_or(*address)));
  } else {
    EXPECT_TRUE(absl::IsNotFound(address.status())) << address.status();
  }
}

TEST(NetworkAddress, AnInterfaceStandsForItsAddress) {
  EXPECT_EQ(ResolveAdvertised("lo").value_or(""), "127.0.0.1");
  EXPECT_EQ(ResolveAdvertised("node7").value_or(""), "node7");
}

}  // namespace
}  // namespace albef
