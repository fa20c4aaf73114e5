// Whole albef-worker processes and the coordinator's script (scripted_coordinator.h).
#include <gmock/gmock.h>

#include "common/clock.h"
#include "tests/worker/worker_process.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(WorkerProcess, SaysWhoItIsAndWhatItShallRun) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  ::setenv("ALBEF_HOST", "node7", 1);
  auto worker = StartWith(coordinator, {"--resume", "auto"});
  ::unsetenv("ALBEF_HOST");
  const v1::Hello hello = coordinator.WaitForHello();
  EXPECT_EQ(hello.host(), "node7");
  EXPECT_EQ(hello.supervisor_pid(), worker->pid());
  EXPECT_EQ(hello.order(), -1);
  EXPECT_THAT(hello.worker_id(), HasSubstr("node7-" + std::to_string(worker->pid())));
  EXPECT_EQ(hello.phase(), v1::TRAINER_PHASE_NONE);
  EXPECT_EQ(hello.run_request().resume(), "auto");
  EXPECT_EQ(hello.run_request().device(), "cpu");
  EXPECT_THAT(hello.run_request().config_yaml(), HasSubstr("queue_size: 50"));
  EXPECT_EQ(hello.run_request().expected_workers(), 0);
}

TEST_F(WorkerProcess, StartsATrainerAndCarriesWhatIsSaidBothWays) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  coordinator.WaitForHello();
  coordinator.Start(v1::START_ACTION_IMPORT, "/a/checkpoint_05.pth");
  const v1::TrainerStarted trainer = coordinator.WaitForTrainerStarted();
  WaitForParked(coordinator, 0);
  v1::ControlMessage prepare;
  prepare.mutable_prepare()->set_generation(3);
  coordinator.SendControl(trainer.incarnation(), prepare);
  WaitForParked(coordinator, 3);
  EXPECT_TRUE(LogHas("arguments: --supervised"));
  EXPECT_THAT(Log(), AllOf(HasSubstr("--run-id=run-1"), HasSubstr("--action=import"),
                           HasSubstr("--import-path=/a/checkpoint_05.pth"), HasSubstr("--order=-1"),
                           HasSubstr("--mesh-host=127.0.0.1"),
                           HasSubstr("--incarnation=" + std::to_string(trainer.incarnation())),
                           HasSubstr("--parent-pid=" + std::to_string(worker->pid()))));
  // Asked again (the answer may have been lost) it starts no second one.
  coordinator.Start();
  EXPECT_EQ(coordinator.WaitForTrainerStarted().incarnation(), trainer.incarnation());
  const auto heartbeat = coordinator.WaitFor("heartbeat", [](const auto& message) {
    return message.has_heartbeat() && message.heartbeat().activity().generation() == 3 &&
           message.heartbeat().trainer_silent_seconds() < 2;
  });
  EXPECT_EQ(heartbeat.heartbeat().trainer_incarnation(), trainer.incarnation());
}

TEST_F(WorkerProcess, DropsWhatIsMeantForAnEarlierTrainer) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  Tell(coordinator, trainer.incarnation() - 1, 1005);
  v1::CoordinatorMessage kill;
  kill.mutable_kill_trainer()->set_incarnation(trainer.incarnation() - 1);
  coordinator.Send(kill);
  v1::ControlMessage prepare;
  prepare.mutable_prepare()->set_generation(1);
  coordinator.SendControl(trainer.incarnation(), prepare);
  WaitForParked(coordinator, 1);
}

TEST_F(WorkerProcess, TellsHowATrainerEndedAndStartsAnother) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted first = StartTrainer(coordinator);
  Tell(coordinator, first.incarnation(), 1005);
  v1::TrainerExited exited = coordinator.WaitForTrainerExited();
  EXPECT_EQ(exited.incarnation(), first.incarnation());
  EXPECT_EQ(exited.exit_code(), 5);
  EXPECT_EQ(exited.signal(), 0);
  EXPECT_THAT(exited.last_log_lines(), HasSubstr("last words\n"));
  EXPECT_EQ(exited.batch().iteration(), 5);

  coordinator.Start(v1::START_ACTION_CONTINUE);
  const v1::TrainerStarted second = coordinator.WaitForTrainerStarted();
  EXPECT_GT(second.incarnation(), first.incarnation());
  WaitForParked(coordinator, 0);
  v1::CoordinatorMessage kill;
  kill.mutable_kill_trainer()->set_incarnation(second.incarnation());
  kill.mutable_kill_trainer()->set_reason("stuck in COMPUTE for 10 s");
  coordinator.Send(kill);
  exited = coordinator.WaitForTrainerExited();
  EXPECT_EQ(exited.incarnation(), second.incarnation());
  EXPECT_EQ(exited.signal(), SIGKILL);
  EXPECT_TRUE(LogHas("stuck in COMPUTE"));
  EXPECT_THAT(Log(), HasSubstr("threads="));
}

TEST_F(WorkerProcess, TellsATrainerThatCannotBeStarted) {
  fs::remove(bin_ / "albef-trainer");
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  coordinator.WaitForHello();
  coordinator.Start();
  const v1::TrainerExited exited = coordinator.WaitForTrainerExited();
  EXPECT_EQ(exited.exit_code(), 127);
  EXPECT_THAT(exited.last_log_lines(), HasSubstr("albef-trainer"));
}

TEST_F(WorkerProcess, NoticesAStoppedTrainerByItsSilence) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  ::kill(static_cast<pid_t>(trainer.pid()), SIGSTOP);
  coordinator.WaitFor("silence", [](const auto& message) {
    return message.has_heartbeat() && message.heartbeat().trainer_silent_seconds() > 1.5;
  });
  v1::CoordinatorMessage kill;
  kill.mutable_kill_trainer()->set_incarnation(trainer.incarnation());
  coordinator.Send(kill);
  EXPECT_EQ(coordinator.WaitForTrainerExited().signal(), SIGKILL);
}

TEST_F(WorkerProcess, BeatsAsTheCoordinatorAsksUntilItsTrainerIsInDoubt) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_, .heartbeat_seconds = 1.5});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  const auto next = [&] {
    return coordinator.WaitFor("heartbeat", [](const auto& m) { return m.has_heartbeat(); })
        .heartbeat();
  };
  next();
  const auto begin = std::chrono::steady_clock::now();
  next();
  next();
  EXPECT_GT(SecondsSince(begin), 2.5);
  ::kill(static_cast<pid_t>(trainer.pid()), SIGSTOP);
  double silent_before = 0;
  coordinator.WaitFor("heartbeat sooner than asked for", [&](const auto& message) {
    if (!message.has_heartbeat()) return false;
    const double silent = message.heartbeat().trainer_silent_seconds();
    const double before = std::exchange(silent_before, silent);
    return before >= 1 && silent - before < 1.2;
  });
}

TEST_F(WorkerProcess, LeavesNoOrphanWhenItIsKilled) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  ASSERT_FALSE(IsGone(trainer.pid()));
  ::kill(worker->pid(), SIGKILL);
  EXPECT_TRUE(WaitUntil([&] { return IsGone(trainer.pid()); }));
}

TEST_F(WorkerProcess, EndsItsTrainerAndTakesTheExitCodeOfTheEnd) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  coordinator.End(75, "PREEMPTED");
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 75}));
  EXPECT_TRUE(IsGone(trainer.pid()));
  EXPECT_THAT(Log(), Not(HasSubstr("does not end, killing it")));
}

TEST_F(WorkerProcess, KillsATrainerThatDoesNotEndByItself) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  auto worker = StartWith(coordinator);
  const v1::TrainerStarted trainer = StartTrainer(coordinator);
  Tell(coordinator, trainer.incarnation(), 3000);
  coordinator.End(0, "SUCCEEDED");
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 0}));
  EXPECT_TRUE(IsGone(trainer.pid()));
  EXPECT_THAT(Log(), HasSubstr("does not end, killing it"));
}

TEST_F(WorkerProcess, TheFirstSignalAsksTheRunToEndAndTheSecondInterruptEndsAtOnce) {
  ScriptedCoordinator coordinator({.run_dir = run_dir_});
  for (const int first : {SIGUSR2, SIGTERM, SIGINT}) {
    auto worker = StartWith(coordinator);
    const v1::TrainerStarted trainer = StartTrainer(coordinator);
    ::kill(worker->pid(), first);
    const auto leave =
        coordinator.WaitFor("leave", [](const auto& message) { return message.has_leave(); });
    EXPECT_TRUE(leave.leave().preempt());
    EXPECT_THAT(leave.leave().reason(), HasSubstr("got SIG"));
    ::kill(worker->pid(), SIGTERM);  // counts no more
    EXPECT_FALSE(worker->TryReap().has_value());
    ::kill(worker->pid(), SIGINT);
    EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 130}));
    EXPECT_TRUE(WaitUntil([&] { return IsGone(trainer.pid()); }));
  }
}

TEST_F(WorkerProcess, ComesBackWithWhatItKnowsAndRepeatsWhatWasNotRecorded) {
  auto first =
      std::make_unique<ScriptedCoordinator>(ScriptedCoordinator::Options{.run_dir = run_dir_});
  auto worker = StartWith(*first);
  const v1::TrainerStarted trainer = StartTrainer(*first);
  const auto tell = [&](auto change) {
    v1::ControlMessage message;
    change(message);
    first->SendControl(trainer.incarnation(), message);
  };
  tell([](auto& message) { message.mutable_prepare()->set_generation(3); });
  WaitForParked(*first, 3);
  tell([](auto& message) { message.mutable_assign()->set_generation(3); });
  first->WaitFor("synced", [](const auto& message) {
    return message.has_from_trainer() && message.from_trainer().message().has_synced();
  });
  tell([](auto& message) { message.mutable_run()->set_generation(3); });
  Tell(*first, trainer.incarnation(), 2004);
  Tell(*first, trainer.incarnation(), 4000);
  first->WaitFor("broken communicator", [](const auto& message) {
    return message.from_trainer().message().has_communication_failed();
  });
  first->Acknowledge(2);
  ::kill(worker->pid(), SIGUSR2);
  first->WaitFor("leave", [](const auto& message) { return message.has_leave(); });
  first.reset();

  ScriptedCoordinator second({.run_dir = run_dir_, .term = 2});
  const v1::Hello hello = second.WaitForHello();
  EXPECT_EQ(hello.run_id(), "run-1");
  EXPECT_EQ(hello.term(), 1);
  EXPECT_EQ(hello.generation(), 3);
  EXPECT_EQ(hello.trainer_incarnation(), trainer.incarnation());
  EXPECT_EQ(hello.trainer_pid(), trainer.pid());
  EXPECT_EQ(hello.phase(), v1::TRAINER_PHASE_RUNNING);
  EXPECT_EQ(hello.synced().digest(), "0123456789abcdef");
  second.WaitFor("broken communicator", [](const auto& message) {
    return message.from_trainer().message().has_communication_failed();
  });
  for (const int64_t sequence : {3, 4, 5}) {
    const auto report = second.WaitFor("report", [](const auto& message) {
      return message.from_trainer().message().has_report();
    });
    EXPECT_EQ(report.from_trainer().sequence(), sequence);
    EXPECT_EQ(report.from_trainer().message().report().step().step(), sequence);
  }
  second.WaitFor("leave", [](const auto& message) { return message.has_leave(); });
  second.End(75, "PREEMPTED");
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 75}));
}

TEST_F(WorkerProcess, ARefusedHelloEndsItWithTheCoordinatorsMessage) {
  ScriptedCoordinator coordinator(
      {.run_dir = run_dir_,
       .refusal = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "seed: the run has 42")});
  auto worker = StartWith(coordinator);
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 64}));
  EXPECT_THAT(Log(), HasSubstr("seed: the run has 42"));
}

TEST_F(WorkerProcess, GivesUpAnExternalCoordinatorThatDoesNotCome) {
  std::string address;
  {
    ScriptedCoordinator coordinator({.run_dir = run_dir_, .writes_file = false});
    address = coordinator.address();
  }
  auto worker = Start({"--coordinator", address, "--set", "elastic.coordinator_wait_s=0.5"});
  EXPECT_EQ(WaitForExit(*worker), (ChildExit{.exit_code = 1}));
  EXPECT_THAT(Log(), HasSubstr(address));
}

TEST_F(WorkerProcess, UsageErrorsEndItBeforeAnythingIsStarted) {
  // Over a network, and nobody has said that it is trusted.
  EXPECT_EQ(WaitForExit(*Start({"--coordinator", "192.0.2.1:7000"})), (ChildExit{.exit_code = 64}));
  EXPECT_TRUE(LogHas("--insecure"));
  EXPECT_EQ(WaitForExit(*Start({"--device", "tpu"})), (ChildExit{.exit_code = 64}));
  EXPECT_EQ(WaitForExit(*Start({"--set", "batch_size=none"})), (ChildExit{.exit_code = 64}));
  EXPECT_THAT(Log(), HasSubstr("batch_size"));
  EXPECT_EQ(WaitForExit(*Start({"--coordinator", "n1"})), (ChildExit{.exit_code = 64}));
  EXPECT_THAT(Log(), HasSubstr("--coordinator: \"n1\" is no HOST:PORT"));
  EXPECT_TRUE(CoordinatorStarts().empty());
}

TEST_F(WorkerProcess, ARunDirectoryThatCannotBeUsedEndsItWith74) {
  fs::remove(run_dir_);
  std::ofstream(run_dir_) << "a file";
  EXPECT_EQ(WaitForExit(*Start({})), (ChildExit{.exit_code = 74}));
  EXPECT_THAT(Log(), HasSubstr(run_dir_.string()));
}

}  // namespace
}  // namespace albef
