// albefctl's commands against an Operator service over real gRPC, and against what a run leaves.
#include "tools/albefctl.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <future>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "checkpoint/store.h"
#include "common/file.h"
#include "coordinator/coordinator_file.h"
#include "coordinator/recorder.h"
#include "coordinator/run_token.h"
#include "tests/tools/fake_operator.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using Json = nlohmann::json;
using std::chrono::milliseconds;

struct Ran {
  int exit_code = -1;
  std::string out;
  std::string err;
};

// Collects what a command prints; `on_out` sees each piece of stdout.
Ran RunCommand(const CtlOptions& options, const std::function<void(std::string_view)>& on_out = {},
               bool is_terminal = false) {
  Ran ran;
  CtlOutput output;
  output.out = [&](std::string_view text) {
    ran.out += text;
    if (on_out) on_out(text);
  };
  output.err = [&](std::string_view text) { ran.err += text; };
  output.is_terminal = is_terminal;
  output.num_rows = [] { return size_t{40}; };
  output.unix_seconds = [] { return 1'700'000'000.0; };
  output.time_of_day = [] { return std::string("14:02:11"); };
  ran.exit_code = RunCtl(options, output);
  return ran;
}

// A run directory as a coordinator at `address` makes it.
void Announce(const fs::path& run_dir, const std::string& address, int64_t term = 1) {
  ASSERT_TRUE(WriteCoordinatorFile(run_dir, {.run_id = "a3f2",
                                             .term = term,
                                             .address = address,
                                             .metrics_address = "127.0.0.1:1",
                                             .pid = 123,
                                             .host = "n1"})
                  .ok());
}

CtlOptions In(const fs::path& run_dir, CtlCommand command) {
  CtlOptions options;
  options.command = command;
  options.location.run_dir = run_dir;
  return options;
}

v1::RunStatus StatusAt(v1::RunState state, int64_t step, const std::string& reason) {
  v1::RunStatus status;
  status.set_run_id("a3f2");
  status.set_state(state);
  status.set_step(step);
  status.set_target_step(40);
  status.set_reason(reason);
  return status;
}

// A port where nobody listens any more.
std::string DeadAddress() { return FakeOperator().address(); }

TEST(Albefctl, FindsTheCoordinatorAndTheTokenInTheRunDirectory) {
  const TemporaryDirectory run_dir;
  FakeOperator service;
  service.token = *EnsureRunToken(run_dir.path());
  service.status = StatusAt(v1::RUN_STATE_RUNNING, 12, "2 workers train");
  Announce(run_dir.path(), service.address());

  const Ran ran = RunCommand(In(run_dir.path(), CtlCommand::kStatus));
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("12 of 40"));
  EXPECT_THAT(ran.out, HasSubstr(service.address()));
}

TEST(Albefctl, TakesAddressAndTokenByHand) {
  const TemporaryDirectory folder;
  FakeOperator service;
  service.token = *EnsureRunToken(folder.path());
  service.workers.add_workers()->set_host("n1");
  CtlOptions options;
  options.command = CtlCommand::kWorkers;
  options.json = true;
  options.location.coordinator = service.address();
  const Ran refused = RunCommand(options);
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("--token-file"));

  options.location.token_file = folder.path() / "secrets/token";
  const Ran ran = RunCommand(options);
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(Json::parse(ran.out)["workers"][0]["host"], "n1");
}

TEST(Albefctl, WhereNobodyAnswersItNamesAddressFileAndRemedy) {
  const TemporaryDirectory run_dir;
  const std::string address = DeadAddress();
  Announce(run_dir.path(), address, /*term=*/3);
  CtlOptions options = In(run_dir.path(), CtlCommand::kStatus);
  options.timeout = milliseconds(300);
  const Ran ran = RunCommand(options);
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_EQ(ran.out, "");
  EXPECT_THAT(ran.err, HasSubstr("nobody answers at " + address));
  EXPECT_THAT(ran.err, HasSubstr((run_dir.path() / "coordinator.json").string()));
  EXPECT_THAT(ran.err, HasSubstr("term 3, process 123 on n1"));
  EXPECT_THAT(ran.err, HasSubstr("try again"));
}

TEST(Albefctl, ADirectoryWithoutARunSaysSo) {
  const TemporaryDirectory folder;
  const Ran ran = RunCommand(In(folder.path() / "nowhere", CtlCommand::kStatus));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("nowhere/coordinator.json does not exist"));
}

TEST(Albefctl, AnotherCoordinatorThatTakesOverIsFound) {
  const TemporaryDirectory run_dir;
  Announce(run_dir.path(), DeadAddress());
  ASSERT_TRUE(EnsureRunToken(run_dir.path()).ok());
  FakeOperator service;
  service.status = StatusAt(v1::RUN_STATE_RECOVERING, 12, "workers re-attach");
  CtlOptions options = In(run_dir.path(), CtlCommand::kStatus);
  options.timeout = std::chrono::seconds(30);
  std::future<Ran> ran = std::async(std::launch::async, [&] { return RunCommand(options); });
  Announce(run_dir.path(), service.address(), /*term=*/2);
  const Ran result = ran.get();
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("workers re-attach"));
}

class RunDirectory : public ::testing::Test {
 protected:
  RunDirectory() {
    Announce(run_dir_.path(), service_.address());
    service_.token = *EnsureRunToken(run_dir_.path());
  }

  CtlOptions Options(CtlCommand command) const { return In(run_dir_.path(), command); }

  const TemporaryDirectory run_dir_;
  FakeOperator service_;
};

using AlbefctlCommands = RunDirectory;

TEST_F(AlbefctlCommands, ACheckpointIsItsPathOnceItIsCommitted) {
  service_.take_checkpoint = [](v1::Checkpoint* checkpoint) {
    checkpoint->set_step(12);
    checkpoint->set_path("/runs/a/checkpoints/step-0000000012");
    return grpc::Status::OK;
  };
  EXPECT_EQ(RunCommand(Options(CtlCommand::kCheckpoint)).out,
            "/runs/a/checkpoints/step-0000000012\n");
  CtlOptions json = Options(CtlCommand::kCheckpoint);
  json.json = true;
  EXPECT_EQ(Json::parse(RunCommand(json).out)["step"], 12);
}

TEST_F(AlbefctlCommands, ARefusalIsInTheCoordinatorsWords) {
  service_.take_checkpoint = [](v1::Checkpoint*) {
    return grpc::Status(grpc::StatusCode::FAILED_PRECONDITION,
                        "the run is paused: resume it first");
  };
  const Ran ran = RunCommand(Options(CtlCommand::kCheckpoint));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_EQ(ran.err, "albefctl: the run is paused: resume it first\n");
}

TEST_F(AlbefctlCommands, EveryCommandReachesItsCall) {
  std::vector<std::string> calls;
  service_.command = [&](const std::string& command, v1::RunStatus* status) {
    calls.push_back(command);
    *status = StatusAt(v1::RUN_STATE_PAUSED, 12, command);
    return grpc::Status::OK;
  };
  EXPECT_EQ(RunCommand(Options(CtlCommand::kPause)).out, "PAUSED at step 12 of 40: pause\n");
  RunCommand(Options(CtlCommand::kResume));
  RunCommand(Options(CtlCommand::kDrain));
  CtlOptions drain = Options(CtlCommand::kDrain);
  drain.worker = "n1";
  RunCommand(drain);
  RunCommand(Options(CtlCommand::kStop));
  EXPECT_THAT(calls, testing::ElementsAre("pause", "resume", "drain ", "drain n1", "stop"));
}

TEST_F(AlbefctlCommands, AConnectionLostOverACommandLeavesItOpenWhetherItHappened) {
  std::promise<void> called;
  std::promise<void> is_down;
  service_.command = [&](const std::string&, v1::RunStatus*) {
    called.set_value();
    is_down.get_future().wait();
    return grpc::Status::OK;
  };
  std::future<Ran> ran =
      std::async(std::launch::async, [&] { return RunCommand(Options(CtlCommand::kStop)); });
  called.get_future().wait();
  std::thread shutdown([&] { service_.Shutdown(); });
  const Ran result = ran.get();
  is_down.set_value();
  shutdown.join();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.err, HasSubstr("may still happen"));
}

TEST_F(AlbefctlCommands, ATimeoutBoundsACommandThatWaits) {
  std::promise<void> give_up;
  service_.command = [&](const std::string&, v1::RunStatus*) {
    give_up.get_future().wait();
    return grpc::Status::OK;
  };
  CtlOptions options = Options(CtlCommand::kPause);
  options.timeout = milliseconds(2000);  // to connect, too
  const Ran ran = RunCommand(options);
  give_up.set_value();
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("no answer"));
}

TEST_F(AlbefctlCommands, ACoordinatorThatNoLongerAnswersIsNotWaitedFor) {
  std::promise<void> give_up;
  const std::shared_future<void> given_up = give_up.get_future().share();
  service_.command = [given_up](const std::string&, v1::RunStatus*) {
    given_up.wait();
    return grpc::Status::OK;
  };
  service_.before_status = [given_up] { given_up.wait(); };
  absl::StatusOr<OperatorClient> client = OperatorClient::Connect(
      {.location = {.run_dir = run_dir_.path()}, .probe_interval = milliseconds(50)});
  ASSERT_TRUE(client.ok()) << client.status();
  EXPECT_TRUE(absl::IsUnavailable(client->Stop().status()));
  give_up.set_value();
}

using AlbefctlWatch = RunDirectory;

TEST_F(AlbefctlWatch, PrintsALinePerChangeAndEndsAsTheRun) {
  service_.Push(StatusAt(v1::RUN_STATE_RUNNING, 1, "training"));
  v1::RunStatus ended = StatusAt(v1::RUN_STATE_PREEMPTED, 3, "SIGTERM");
  ended.set_exit_code(75);
  std::string first;
  const Ran ran = RunCommand(Options(CtlCommand::kWatch), [&](std::string_view text) {
    if (!first.empty()) return;
    first = text;
    service_.Push(ended);
  });
  EXPECT_EQ(ran.exit_code, 75) << ran.err;
  EXPECT_EQ(ran.out,
            "14:02:11  RUNNING  step 1 of 40  generation 0  0 workers  training\n"
            "14:02:11  PREEMPTED  step 3 of 40  generation 0  0 workers  SIGTERM\n");
}

TEST_F(AlbefctlWatch, AJsonObjectPerLine) {
  service_.Push(StatusAt(v1::RUN_STATE_SUCCEEDED, 40, "done"));
  CtlOptions options = Options(CtlCommand::kWatch);
  options.json = true;
  const Ran ran = RunCommand(options);
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_EQ(Json::parse(ran.out)["state"], "SUCCEEDED");
  EXPECT_EQ(std::count(ran.out.begin(), ran.out.end(), '\n'), 1);
}

TEST_F(AlbefctlWatch, ATerminalIsRedrawnOverItsOldLines) {
  service_.workers.add_workers()->set_host("n1");
  service_.Push(StatusAt(v1::RUN_STATE_RUNNING, 1, "training"));
  bool is_first = true;
  const Ran ran = RunCommand(
      Options(CtlCommand::kWatch),
      [&](std::string_view) {
        if (!std::exchange(is_first, false)) return;
        service_.Push(StatusAt(v1::RUN_STATE_SUCCEEDED, 40, "done"));
      },
      /*is_terminal=*/true);
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  const size_t second = ran.out.rfind("\x1b[?7l");
  const std::string frame = ran.out.substr(0, second);
  EXPECT_THAT(frame, HasSubstr("n1"));
  EXPECT_THAT(ran.out.substr(second),
              HasSubstr(fmt::format("\x1b[{}A", std::count(frame.begin(), frame.end(), '\n'))));
  EXPECT_THAT(ran.out.substr(second), HasSubstr("SUCCEEDED"));
}

TEST_F(AlbefctlWatch, FollowsTheRunToTheNextCoordinator) {
  FakeOperator next;
  next.token = service_.token;
  next.Push(StatusAt(v1::RUN_STATE_SUCCEEDED, 40, "done"));
  service_.Push(StatusAt(v1::RUN_STATE_RUNNING, 1, "training"));
  bool is_first = true;
  const Ran ran = RunCommand(Options(CtlCommand::kWatch), [&](std::string_view) {
    if (!std::exchange(is_first, false)) return;
    Announce(run_dir_.path(), next.address(), /*term=*/2);
    service_.Shutdown();
  });
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("lost the coordinator"));
  EXPECT_THAT(ran.out, HasSubstr("SUCCEEDED"));
}

TEST_F(AlbefctlWatch, ARunWhoseCoordinatorIsGoneEndsAsItsFilesSay) {
  auto recorder = Recorder::Open({.run_dir = run_dir_.path()});
  ASSERT_TRUE(recorder.ok());
  service_.Push(StatusAt(v1::RUN_STATE_RUNNING, 1, "training"));
  bool is_first = true;
  const Ran ran = RunCommand(Options(CtlCommand::kWatch), [&](std::string_view) {
    if (!std::exchange(is_first, false)) return;
    ASSERT_TRUE(
        (*recorder)->RecordOutcome({.state = "FAILED", .reason = "poison", .exit_code = 93}).ok());
    service_.Shutdown();
  });
  EXPECT_EQ(ran.exit_code, 93) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("FAILED"));
}

// What a run leaves, without a coordinator.
class FinishedRun : public ::testing::Test {
 protected:
  FinishedRun() {
    Announce(run_dir_.path(), DeadAddress());
    auto recorder = Recorder::Open({.run_dir = run_dir_.path()});
    EXPECT_TRUE(recorder.ok());
    (*recorder)->RecordStep({.step = 39, .epoch = 6, .loss_mlm = 2.5});
    (*recorder)->RecordStep({.step = 40, .epoch = 6, .loss_mlm = 1.5});
    EXPECT_TRUE((*recorder)
                    ->RecordOutcome({.state = "SUCCEEDED",
                                     .reason = "all 40 steps are done",
                                     .exit_code = 0,
                                     .state_digest = "8a0c",
                                     .step = 40})
                    .ok());
  }

  CtlOptions Options(CtlCommand command) const { return In(run_dir_.path(), command); }

  const TemporaryDirectory run_dir_;
};

TEST_F(FinishedRun, StatusAnswersFromItsFiles) {
  const Ran ran = RunCommand(Options(CtlCommand::kStatus));
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("SUCCEEDED"));
  EXPECT_THAT(ran.out, HasSubstr("all 40 steps are done"));
  EXPECT_THAT(ran.out, HasSubstr("(mlm 1.500"));
  EXPECT_THAT(ran.out, HasSubstr("8a0c"));
  CtlOptions options = Options(CtlCommand::kStatus);
  options.json = true;
  const Json json = Json::parse(RunCommand(options).out);
  EXPECT_EQ(json["state"], "SUCCEEDED");
  EXPECT_EQ(json["exit_code"], 0);
  EXPECT_EQ(json["last_step"]["step"], 40);
}

TEST_F(FinishedRun, CheckpointsAnswerFromItsFiles) {
  auto store = CheckpointStore::Open({.root = run_dir_.path() / "checkpoints"});
  ASSERT_TRUE(store.ok());
  CheckpointInfo info;
  info.counters.iteration = 40;
  const absl::StatusOr<Manifest> manifest = (*store)->Write({}, info, {});
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  CtlOptions options = Options(CtlCommand::kCheckpoints);
  options.json = true;
  const Ran ran = RunCommand(options);
  EXPECT_EQ(ran.exit_code, 0) << ran.err;
  const Json json = Json::parse(ran.out);
  ASSERT_EQ(json["checkpoints"].size(), 1U);
  EXPECT_EQ(json["checkpoints"][0]["step"], 40);
  EXPECT_EQ(json["checkpoints"][0]["path"],
            (run_dir_.path() / "checkpoints/step-0000000040").string());
  EXPECT_EQ(json["checkpoints"][0]["state_digest"], ToHex(manifest->state_digest));
}

TEST_F(FinishedRun, CommandsSayThatItHasEnded) {
  const Ran ran = RunCommand(Options(CtlCommand::kCheckpoint));
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("has ended, SUCCEEDED at step 40"));
}

TEST_F(FinishedRun, WatchExitsWithItsExitCodeAtOnce) {
  const Ran ran = RunCommand(Options(CtlCommand::kWatch));
  EXPECT_EQ(ran.exit_code, 0);
  EXPECT_THAT(ran.out, HasSubstr("SUCCEEDED"));
}

TEST_F(FinishedRun, ACoordinatorStartedAfterwardsMeansThatItGoesOn) {
  // File times are as coarse as the kernel's ticks.
  const std::filesystem::path outcome = run_dir_.path() / "outcome.json";
  std::filesystem::last_write_time(
      outcome, std::filesystem::last_write_time(outcome) - std::chrono::seconds(1));
  Announce(run_dir_.path(), DeadAddress(), /*term=*/2);
  CtlOptions options = Options(CtlCommand::kStatus);
  options.timeout = milliseconds(300);
  const Ran ran = RunCommand(options);
  EXPECT_EQ(ran.exit_code, 1);
  EXPECT_THAT(ran.err, HasSubstr("nobody answers"));
}

TEST_F(FinishedRun, ATornLastLineOfMetricsIsPassedOver) {
  std::string metrics = *ReadFile(run_dir_.path() / "metrics.jsonl");
  metrics.resize(metrics.size() - 20);
  ASSERT_TRUE(WriteFileAtomic(run_dir_.path() / "metrics.jsonl", metrics).ok());
  CtlOptions options = Options(CtlCommand::kStatus);
  options.json = true;
  EXPECT_EQ(Json::parse(RunCommand(options).out)["last_step"]["step"], 39);
}

}  // namespace
}  // namespace albef
