#include "coordinator/run_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/fake_cluster.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::Contains;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

FakeCluster::Options TwoWorkers() {
  FakeCluster::Options options;
  options.machine.run_id = "run-1";
  options.expected_workers = 2;
  options.machine.membership.join_window = seconds(10);
  options.machine.hangs = {.hang_limit = seconds(2), .startup_limit = seconds(60)};
  return options;
}

// Two workers that run in generation 1.
std::unique_ptr<FakeCluster> Running(FakeCluster::Options options = TwoWorkers()) {
  auto cluster = std::make_unique<FakeCluster>(std::move(options));
  cluster->Add("a", "n1", 0);
  cluster->Add("b", "n2", 1);
  EXPECT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(cluster->machine().generation(), 1);
  return cluster;
}

FakeCluster::Options ThreeWorkers() {
  FakeCluster::Options options = TwoWorkers();
  options.run.virtual_ranks = 3;
  options.expected_workers = 3;
  return options;
}

// Three workers that run, each on a host of its own.
std::unique_ptr<FakeCluster> RunningThree(FakeCluster::Options options) {
  auto cluster = std::make_unique<FakeCluster>(std::move(options));
  for (const char* name : {"a", "b", "c"}) cluster->Add(name, name, name[0] - 'a');
  EXPECT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  return cluster;
}

std::vector<std::string> States(const FakeCluster& cluster) {
  std::vector<std::string> states;
  for (const Event* event : cluster.EventsOf("state")) {
    for (const auto& [key, value] : event->facts) {
      if (key == "to") states.push_back(std::get<std::string>(value));
    }
  }
  return states;
}

std::string WorkerStates(FakeCluster& cluster) {
  std::string text;
  const v1::ListWorkersResponse workers = cluster.machine().Workers();
  for (const v1::Worker& worker : workers.workers()) {
    text += worker.worker_id() + ":" + std::to_string(worker.rank()) + ":" + worker.state() + " ";
  }
  return text;
}

void ExpectSucceeds(FakeCluster& cluster, MonotonicDuration limit = seconds(60)) {
  EXPECT_TRUE(cluster.AdvanceUntil([&] { return cluster.outcome().has_value(); }, limit))
      << cluster.machine().Status().ShortDebugString();
  if (!cluster.outcome().has_value()) return;
  EXPECT_EQ(cluster.outcome()->state, "SUCCEEDED") << cluster.outcome()->reason;
  EXPECT_EQ(cluster.outcome()->exit_code, 0);
  EXPECT_EQ(cluster.outcome()->state_digest, "50");
  EXPECT_EQ(cluster.outcome()->step, 50);
}

TEST(RunMachine, AnUndisturbedRunGoesThroughItsStates) {
  auto cluster = Running();
  ExpectSucceeds(*cluster);
  EXPECT_EQ(States(*cluster),
            (std::vector<std::string>{"FORMING", "SYNCING", "RUNNING", "SUCCEEDED"}));
  EXPECT_EQ(cluster->first_start()->num_workers, 2);
  EXPECT_EQ(cluster->first_start()->num_workers_on_first_host, 1);
  cluster->Advance(seconds(1));
  EXPECT_EQ(cluster->worker("a").end->state(), "SUCCEEDED");
  EXPECT_EQ(cluster->worker("b").end->exit_code(), 0);
  const v1::RunStatus status = cluster->machine().Status();
  EXPECT_EQ(status.state(), v1::RUN_STATE_SUCCEEDED);
  EXPECT_EQ(status.target_step(), 50);
  EXPECT_EQ(status.recoveries(), 0);
  EXPECT_EQ(status.last_checkpoint().step(), 50);
}

TEST(RunMachine, NoTrainerIsStartedBeforeTheConfigurationIsFixed) {
  FakeCluster::Options options = TwoWorkers();
  options.configures_itself = false;
  FakeCluster cluster(options);
  cluster.Add("a", "n1", 0);
  cluster.Add("b", "n1", 1);
  cluster.Advance(seconds(20));
  EXPECT_EQ(cluster.machine().state(), v1::RUN_STATE_WAITING);
  EXPECT_FALSE(cluster.worker("a").trainer.has_value());
  EXPECT_EQ(cluster.first_start()->num_workers_on_first_host, 2);
}

TEST(RunMachine, ATrainersDeathCostsAGenerationAndNoStep) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  const int64_t step = cluster->machine().Status().step();
  cluster->KillTrainer("b");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_FORMING));
  cluster->Advance(milliseconds(100));
  EXPECT_THAT(
      cluster->machine().Status().reason(),
      HasSubstr("waiting for 1 of 2 workers: n2 rank 1: was killed by signal 9, restarting"));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(cluster->machine().generation(), 2);
  EXPECT_GE(cluster->machine().Status().step(), step);
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  EXPECT_EQ(cluster->machine().Status().recoveries(), 1);
  EXPECT_THAT(cluster->EventsOf("recovery"), SizeIs(1));
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().Workers().workers(1).restarts(), 1);
}

TEST(RunMachine, ALostWorkerIsNotWaitedFor) {
  auto cluster = Running();
  cluster->Remove("b");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(500)));
  EXPECT_EQ(cluster->machine().Status().num_members(), 1);
  EXPECT_DOUBLE_EQ(cluster->machine().Status().efficiency(), 1);
  EXPECT_EQ(WorkerStates(*cluster), "a:0:running b:-1:lost ");
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AWorkerWithoutHeartbeatsIsLost) {
  auto cluster = Running();
  cluster->worker("b").is_silent = true;
  EXPECT_FALSE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; },
                                     milliseconds(4400)));
  EXPECT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; },
                                    milliseconds(1000)));
  EXPECT_THAT(cluster->EventsOf("trainer_killed"), IsEmpty()) << "nobody knows whether it is stuck";
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AWorkerThatComesBackWithALiveTrainerIsTakenInAgain) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->Disconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  cluster->Advance(seconds(1));
  cluster->Reconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] {
    return cluster->machine().Status().num_members() == 2 &&
           cluster->machine().state() == v1::RUN_STATE_RUNNING;
  }));
  EXPECT_EQ(cluster->trainer("b").incarnation, 1);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ASecondStreamOfAWorkerReplacesTheFirstWithoutAGeneration) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  const uint64_t old_session = cluster->worker("b").session;
  cluster->Reconnect("b");
  cluster->Advance(milliseconds(100));
  RunActions ignored =
      cluster->machine().Handle(run_event::SessionBroken{old_session, "late"}, MonotonicTime());
  EXPECT_THAT(ignored, SizeIs(0));
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().generation(), 1);
}

TEST(RunMachine, ASpareTakesTheDeadMembersPlaceAtOnce) {
  FakeCluster::Options options = TwoWorkers();
  options.expected_workers = 3;
  FakeCluster cluster(options);
  cluster.Add("a", "n1", 0);
  cluster.Add("b", "n1", 1);
  cluster.Add("c", "n2", 2);
  ASSERT_TRUE(cluster.AdvanceUntilState(v1::RUN_STATE_RUNNING));
  cluster.Advance(seconds(1));
  EXPECT_EQ(WorkerStates(cluster), "a:0:running b:1:running c:-1:spare ");
  EXPECT_EQ(cluster.machine().Status().num_spares(), 1);
  cluster.Remove("a");
  ASSERT_TRUE(cluster.AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(500)));
  EXPECT_EQ(WorkerStates(cluster), "b:0:running c:1:running a:-1:lost ");
  ExpectSucceeds(cluster);
}

TEST(RunMachine, WorkersAreListedWithTheVirtualRanksTheyCompute) {
  FakeCluster::Options options = TwoWorkers();
  options.run.virtual_ranks = 5;
  auto cluster = Running(options);
  const auto hosted = [&] {
    std::vector<std::pair<int64_t, int64_t>> ranges;
    const v1::ListWorkersResponse response = cluster->machine().Workers();
    for (const v1::Worker& worker : response.workers()) {
      ranges.emplace_back(worker.virtual_rank_begin(), worker.virtual_rank_end());
    }
    return ranges;
  };
  using Ranges = std::vector<std::pair<int64_t, int64_t>>;
  EXPECT_EQ(hosted(), (Ranges{{0, 2}, {2, 5}}));
  cluster->Remove("a");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(hosted(), (Ranges{{0, 5}, {0, 0}}));
}

TEST(RunMachine, ALateWorkerIsTakenInAtABoundary) {
  FakeCluster::Options options = TwoWorkers();
  options.run.virtual_ranks = 4;
  auto cluster = Running(options);
  cluster->Add("c", "n3", 2);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  EXPECT_EQ(cluster->machine().Status().recoveries(), 0);
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(cluster->machine().Status().num_members(), 3);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ACommunicationFailureWithoutADeathFormsAnotherGeneration) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  v1::WorkerMessage message;
  v1::FromTrainer& from = *message.mutable_from_trainer();
  from.set_incarnation(1);
  from.mutable_message()->mutable_communication_failed()->set_generation(0);
  cluster->worker("a").to_machine.emplace_back(MonotonicTime(), message);
  cluster->Advance(milliseconds(100));
  EXPECT_EQ(cluster->machine().generation(), 1);  // stale
  from.mutable_message()->mutable_communication_failed()->set_generation(1);
  cluster->worker("a").to_machine.emplace_back(MonotonicTime(), message);
  cluster->Advance(milliseconds(40));
  EXPECT_EQ(cluster->machine().generation(), 2);
  EXPECT_THAT(cluster->EventsOf("trainer_exited"), SizeIs(0));
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AStoppedTrainerIsKilledAndNobodyElse) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->trainer("b").is_stopped = true;
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  const auto killed = cluster->EventsOf("trainer_killed");
  ASSERT_THAT(killed, SizeIs(1));
  EXPECT_EQ(std::get<std::string>(killed[0]->facts[0].second), "b");
  EXPECT_THAT(killed[0]->reason, HasSubstr("silent for 2"));
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->worker("a").incarnations, 1);
}

TEST(RunMachine, ATrainerThatIsStuckInItsOwnWorkIsKilledAndNobodyElse) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->trainer("a").is_stuck = true;
  cluster->trainer("a").section = v1::Activity::SECTION_COMPUTE;
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  ASSERT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(1));
  EXPECT_THAT(cluster->EventsOf("trainer_killed")[0]->reason, HasSubstr("stuck in compute"));
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, HeartbeatsAreAskedForTheMoreSeldomTheMoreWorkersThereAre) {
  const auto interval = [](int64_t num_workers, MonotonicDuration hang_limit) {
    FakeCluster::Options options = TwoWorkers();
    options.expected_workers = num_workers;
    options.machine.hangs.hang_limit = hang_limit;
    FakeCluster cluster(options);
    cluster.Add("a", "n1", 0);
    cluster.Advance(milliseconds(100));
    EXPECT_EQ(cluster.worker("a").heartbeat_interval, cluster.machine().HeartbeatInterval());
    return cluster.machine().HeartbeatInterval();
  };
  EXPECT_EQ(interval(2, seconds(10)), milliseconds(200));
  EXPECT_EQ(interval(1024, seconds(10)), milliseconds(512));
  EXPECT_EQ(interval(1024, seconds(2)), milliseconds(400));
  // Two and a half in the time after which a silent worker is lost.
  EXPECT_EQ(interval(int64_t{1} << 62, seconds(10)), seconds(2));
}

// Two of very many workers, whose heartbeats are asked for every two seconds.
std::unique_ptr<FakeCluster> RunningOfMany() {
  FakeCluster::Options options = TwoWorkers();
  options.expected_workers = 4096;
  options.machine.hangs.hang_limit = seconds(10);
  options.machine.restarts.max_delay = {};
  options.run.target_step = 1'000'000;
  auto cluster = Running(options);
  EXPECT_EQ(cluster->machine().HeartbeatInterval(), seconds(2));
  cluster->Advance(seconds(5));
  return cluster;
}

bool BothRun(FakeCluster& cluster) {
  return cluster.AdvanceUntil([&] {
    return cluster.machine().state() == v1::RUN_STATE_RUNNING &&
           cluster.machine().Status().num_members() == 2;
  });
}

TEST(RunMachine, ATrainerThatIsStuckIsNamedSoonHoweverSeldomHeartbeatsAre) {
  auto cluster = RunningOfMany();
  constexpr MonotonicDuration kLimit = seconds(3);  // of the simulated trainers' compute section
  for (int i = 0; i < 20; ++i) {                    // wherever between two heartbeats it begins
    const size_t num_killed = cluster->EventsOf("trainer_killed").size();
    FakeCluster::Trainer& trainer = cluster->trainer("a");
    trainer.is_stuck = true;
    trainer.section = v1::Activity::SECTION_COMPUTE;
    trainer.section_since = cluster->now();
    cluster->Advance(kLimit);
    ASSERT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(num_killed)) << "too early";
    cluster->Advance(seconds(1));
    ASSERT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(num_killed + 1));
    ASSERT_TRUE(BothRun(*cluster));
    cluster->Advance(seconds(3) + milliseconds(100 * i));
  }
}

TEST(RunMachine, ATrainerThatIsStoppedIsNamedSoonHoweverSeldomHeartbeatsAre) {
  auto cluster = RunningOfMany();
  constexpr MonotonicDuration kLimit = seconds(10);
  for (int i = 0; i < 20; ++i) {
    const size_t num_killed = cluster->EventsOf("trainer_killed").size();
    cluster->trainer("a").is_stopped = true;
    cluster->Advance(kLimit - milliseconds(200));  // it may have said something just before
    ASSERT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(num_killed)) << "too early";
    cluster->Advance(seconds(1) + milliseconds(200));
    ASSERT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(num_killed + 1));
    ASSERT_TRUE(BothRun(*cluster));
    cluster->Advance(seconds(3) + milliseconds(100 * i));
  }
}

TEST(RunMachine, AllWaitingFormsAnotherGenerationWithoutAKill) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  for (const char* id : {"a", "b"}) {
    cluster->trainer(id).is_stuck = true;
    cluster->trainer(id).section = v1::Activity::SECTION_EXCHANGE;
  }
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  EXPECT_THAT(cluster->EventsOf("trainer_killed"), SizeIs(0));
  EXPECT_EQ(cluster->machine().Status().recoveries(), 1);
  for (const char* id : {"a", "b"}) cluster->trainer(id).is_stuck = false;
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ASuspendedCoordinatorJudgesNobodyByTheTimeItMissed) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->StopCoordinator();
  cluster->Advance(seconds(1) + milliseconds(500));
  cluster->Suspend(std::chrono::hours(3));
  cluster->ContinueCoordinator();
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().generation(), 1);
  EXPECT_THAT(cluster->EventsOf("coordinator_stopped"), SizeIs(1));
}

// Three workers that run in generation 1 from some steps on.
std::unique_ptr<FakeCluster> ThreeRunning() {
  FakeCluster::Options options = TwoWorkers();
  options.run.virtual_ranks = 3;
  options.expected_workers = 3;
  auto cluster = std::make_unique<FakeCluster>(options);
  cluster->Add("a", "n1", 0);
  cluster->Add("b", "n1", 1);
  cluster->Add("c", "n2", 2);
  EXPECT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  cluster->Advance(seconds(1));
  return cluster;
}

// What every member reports when the gate shows it.
void ReportDifference(FakeCluster& cluster, const std::vector<int>& minority) {
  for (const std::string& id : cluster.ids()) {
    v1::WorkerMessage message;
    message.mutable_from_trainer()->set_incarnation(cluster.trainer(id).incarnation);
    v1::CommunicationFailed& failed =
        *message.mutable_from_trainer()->mutable_message()->mutable_communication_failed();
    failed.set_generation(cluster.machine().generation());
    v1::StateDifference& difference = *failed.mutable_state_difference();
    difference.set_iteration(13);
    difference.set_where("exp_avg.text_proj.weight (block 3 of 7)");
    for (const int rank : minority) difference.add_minority_ranks(rank);
    cluster.worker(id).to_machine.emplace_back(MonotonicTime(), message);
  }
}

TEST(RunMachine, TheMinorityWithAnotherStateReceives) {
  auto cluster = ThreeRunning();
  cluster->trainer("b").is_corrupt = true;
  cluster->KillTrainer("c");
  ExpectSucceeds(*cluster);
  EXPECT_THAT(cluster->EventsOf("digest_mismatch"), SizeIs(1));
  EXPECT_EQ(cluster->machine().generation(), 3);
  EXPECT_EQ(cluster->worker("b").incarnations, 1);
}

TEST(RunMachine, WhoeverTheGateNamesReceivesInTheNextGeneration) {
  auto cluster = ThreeRunning();
  cluster->trainer("b").is_corrupt = true;
  ReportDifference(*cluster, {1});
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  EXPECT_THAT(cluster->machine().Status().reason(),
              HasSubstr("the state of rank 1 (n1) differs from the others' in "
                        "exp_avg.text_proj.weight (block 3 of 7) at step 13"));
  ASSERT_THAT(cluster->EventsOf("state_differs"), SizeIs(1));
  EXPECT_THAT(cluster->EventsOf("state_differs")[0]->facts,
              ::testing::IsSupersetOf(std::vector<std::pair<std::string, EventValue>>{
                  {"rank", int64_t{1}},
                  {"worker", std::string("b")},
                  {"tensor", std::string("exp_avg.text_proj.weight (block 3 of 7)")},
                  {"step", int64_t{13}}}));
  ExpectSucceeds(*cluster);
  EXPECT_FALSE(cluster->EventsOf("digest_mismatch").size());
  EXPECT_EQ(cluster->machine().generation(), 2);
  EXPECT_EQ(cluster->worker("b").incarnations, 1);
}

TEST(RunMachine, WithoutAMajorityAtTheGateAllLoadTheNewestCheckpoint) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  cluster->trainer("a").is_corrupt = true;
  ReportDifference(*cluster, {});
  ASSERT_TRUE(cluster->AdvanceUntil([&] {
    return cluster->machine().state() == v1::RUN_STATE_RUNNING &&
           cluster->machine().generation() == 2;
  }));
  EXPECT_EQ(cluster->machine().Status().step(), 10);
  EXPECT_THAT(cluster->EventsOf("state_differs"), SizeIs(1));
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AWorkerThatIsNamedIsNoDonorBeforeItHasReceived) {
  auto cluster = ThreeRunning();
  cluster->trainer("b").is_corrupt = true;
  ReportDifference(*cluster, {1});
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_SYNCING));
  // Its donor dies before anything has come, and the other with it.
  cluster->Remove("a");
  cluster->Remove("c");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_FALSE(cluster->trainer("b").is_corrupt);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AShardThatTwoWorkersHoldDifferentlyIsNotCommitted) {
  auto cluster = ThreeRunning();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() > 12; }));
  cluster->trainer("b").is_corrupt = true;
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  ASSERT_THAT(cluster->EventsOf("checkpoint_failed"), SizeIs(1));
  EXPECT_THAT(cluster->EventsOf("checkpoint_failed")[0]->reason, HasSubstr("in block 1 of shard"));
  EXPECT_EQ(cluster->committed_step(), 10);
  ExpectSucceeds(*cluster);
  EXPECT_THAT(cluster->EventsOf("digest_mismatch"), SizeIs(1));
  EXPECT_FALSE(cluster->trainer("b").is_corrupt);
}

TEST(RunMachine, WithoutAMajorityAllLoadTheNewestCheckpoint) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  cluster->trainer("a").is_corrupt = true;
  v1::WorkerMessage message;
  message.mutable_from_trainer()->set_incarnation(1);
  message.mutable_from_trainer()->mutable_message()->mutable_communication_failed()->set_generation(
      1);
  cluster->worker("b").to_machine.emplace_back(MonotonicTime(), message);
  ASSERT_TRUE(cluster->AdvanceUntil([&] {
    return cluster->machine().state() == v1::RUN_STATE_RUNNING &&
           cluster->machine().generation() == 3;
  }));
  EXPECT_EQ(cluster->machine().Status().step(), 10);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AfterTheLossOfAllTheNewestCheckpointIsLoadedByBoth) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  cluster->KillTrainer("a");
  cluster->KillTrainer("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] {
    return cluster->machine().generation() == 2 &&
           cluster->machine().state() == v1::RUN_STATE_RUNNING;
  }));
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  EXPECT_EQ(cluster->machine().Status().step(), 10);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, PauseHoldsAtABoundaryAndResumeGoesOn) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  EXPECT_TRUE(absl::IsFailedPrecondition(cluster->Command(RunCommand::kResume)));
  ASSERT_TRUE(cluster->Command(RunCommand::kPause).ok());
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_PAUSED, seconds(1)));
  const int64_t step = cluster->machine().Status().step();
  cluster->Advance(seconds(60));
  EXPECT_EQ(cluster->machine().Status().step(), step);
  ASSERT_TRUE(cluster->Command(RunCommand::kResume).ok());
  EXPECT_EQ(cluster->machine().state(), v1::RUN_STATE_RUNNING);
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().generation(), 1);
}

TEST(RunMachine, APausedRunStaysPausedThroughADeath) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->Command(RunCommand::kPause).ok());
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_PAUSED, seconds(1)));
  cluster->KillTrainer("a");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_FORMING));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_PAUSED));
  EXPECT_EQ(cluster->machine().generation(), 2);
  ASSERT_TRUE(cluster->Command(RunCommand::kResume).ok());
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AResumeThatOvertakesThePauseLeavesTheRunRunning) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  ASSERT_TRUE(cluster->Command(RunCommand::kPause).ok());
  ASSERT_TRUE(cluster->Command(RunCommand::kResume).ok());
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ACheckpointIsTakenOnCommand) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 3; }));
  const int64_t done = cluster->trainer("a").iteration;
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  ASSERT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; }, seconds(1)));
  EXPECT_THAT(cluster->machine().Status().last_checkpoint().step(), done + 1);
}

TEST(RunMachine, AMemberThatHearsLateOfACheckpointThatAllHaveTakenAsksForNoOther) {
  FakeCluster::Options options = TwoWorkers();
  options.checkpoint_every = 1000;
  auto cluster = Running(options);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 3; }));
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  auto& [at, message] = cluster->worker("b").to_worker.back();
  ASSERT_TRUE(message.to_trainer().message().has_raise_flags());
  at += milliseconds(250);  // two gates later
  cluster->Advance(milliseconds(550));
  EXPECT_EQ(cluster->machine().num_checkpoints(), 1);
  // What is asked for after that is another one.
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  EXPECT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 2; }, seconds(1)));
}

TEST(RunMachine, ACheckpointThatFailedIsNoAnswerToTheNextRequest) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 3; }));
  cluster->SetStorage(/*can_write=*/true, /*can_commit=*/false);
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  ASSERT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().num_failed_checkpoints() == 1; }));
  cluster->SetStorage(true, true);
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  EXPECT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; },
                                    milliseconds(400)));
  EXPECT_EQ(cluster->machine().generation(), 1);
}

TEST(RunMachine, DrainEndsTheRunWithItsStateCommitted) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  ASSERT_TRUE(cluster->Command(RunCommand::kDrainRun).ok());
  EXPECT_EQ(cluster->machine().state(), v1::RUN_STATE_DRAINING);
  EXPECT_TRUE(absl::IsFailedPrecondition(cluster->Command(RunCommand::kStop)));
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(1)));
  EXPECT_EQ(cluster->outcome()->state, "PREEMPTED");
  EXPECT_EQ(cluster->outcome()->exit_code, 75);
  EXPECT_EQ(cluster->outcome()->step, cluster->committed_step());
  EXPECT_EQ(cluster->outcome()->state_digest, std::to_string(cluster->committed_step()));
  cluster->Advance(seconds(1));
  EXPECT_EQ(cluster->worker("b").end->exit_code(), 75);
}

TEST(RunMachine, StopEndsThePausedRunToo) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->Command(RunCommand::kPause).ok());
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_PAUSED, seconds(1)));
  ASSERT_TRUE(cluster->Command(RunCommand::kStop).ok());
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(1)));
  EXPECT_EQ(cluster->outcome()->state, "STOPPED");
  EXPECT_EQ(cluster->outcome()->exit_code, 0);
}

TEST(RunMachine, ASignalAtAWorkerPreemptsTheWholeRun) {
  auto cluster = Running();
  cluster->Leave("a", /*preempt=*/true);
  cluster->Leave("b", /*preempt=*/true);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(1)));
  EXPECT_EQ(cluster->outcome()->state, "PREEMPTED");
  EXPECT_THAT(cluster->outcome()->reason, HasSubstr("signal 12 at step"));
}

TEST(RunMachine, ADrainThroughADeathStillCommits) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  ASSERT_TRUE(cluster->Command(RunCommand::kDrainRun).ok());
  cluster->KillTrainer("a");
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(2)));
  EXPECT_EQ(cluster->outcome()->state, "PREEMPTED");
  EXPECT_EQ(cluster->outcome()->step, cluster->committed_step());
  EXPECT_EQ(cluster->worker("a").incarnations, 1);  // nobody is started to be ended
}

TEST(RunMachine, ADrainWithoutAnyTrainerNamesTheLastCommittedStep) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  ASSERT_TRUE(cluster->Command(RunCommand::kDrainRun).ok());
  cluster->KillTrainer("a");
  cluster->KillTrainer("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(1)));
  EXPECT_EQ(cluster->outcome()->exit_code, 75);
  EXPECT_EQ(cluster->outcome()->step, 10);
  EXPECT_THAT(cluster->outcome()->reason, HasSubstr("the last committed step is 10"));
}

TEST(RunMachine, AGraceThatIsTooShortEndsTheRunAtTheLastCommittedStep) {
  FakeCluster::Options options = TwoWorkers();
  options.machine.preempt_grace = seconds(1);
  options.machine.hangs.hang_limit = seconds(100);
  auto cluster = Running(options);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  cluster->trainer("a").is_stopped = true;
  ASSERT_TRUE(cluster->Command(RunCommand::kDrainRun).ok());
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }, seconds(2)));
  EXPECT_THAT(cluster->outcome()->reason, HasSubstr("preempt.grace_s"));
  EXPECT_EQ(cluster->outcome()->step, 10);
}

TEST(RunMachine, ADrainedWorkerLeavesAtABoundaryAndTheRunGoesOn) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  EXPECT_TRUE(absl::IsNotFound(cluster->Command(RunCommand::kDrainWorker, "n7")));
  ASSERT_TRUE(cluster->Command(RunCommand::kDrainWorker, "0").ok());
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->worker("a").end.has_value(); }));
  EXPECT_EQ(cluster->worker("a").end->state(), "DRAINED");
  EXPECT_EQ(cluster->machine().Status().recoveries(), 0);
  EXPECT_TRUE(absl::IsFailedPrecondition(cluster->Command(RunCommand::kDrainWorker, "b")));
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, WhenAllWorkersLeaveTheRunIsPreempted) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->Leave("a", /*preempt=*/false);
  cluster->Leave("b", /*preempt=*/false);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }));
  EXPECT_EQ(cluster->outcome()->state, "PREEMPTED");
}

TEST(RunMachine, ARestartedCoordinatorLeavesARunningGenerationAlone) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->RestartCoordinator();
  cluster->Advance(seconds(1));
  EXPECT_EQ(cluster->machine().state(), v1::RUN_STATE_RECOVERING);
  cluster->Reconnect("a");
  cluster->Advance(milliseconds(100));
  EXPECT_THAT(cluster->machine().Status().reason(), HasSubstr("waiting for 1 of 2 members"));
  cluster->Reconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(1)));
  EXPECT_EQ(cluster->machine().generation(), 1);
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().generation(), 1);
}

TEST(RunMachine, AMemberThatDoesNotComeBackInTimeIsReplaced) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->RestartCoordinator();
  cluster->Reconnect("a");
  EXPECT_FALSE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; },
                                     milliseconds(9900)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(1)));
  EXPECT_EQ(cluster->machine().generation(), 2);
  EXPECT_EQ(cluster->machine().Status().num_members(), 1);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ATrainerThatDiedWhileTheCoordinatorWasAwayCostsAGeneration) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->RestartCoordinator();
  cluster->worker("b").trainer.reset();
  cluster->Reconnect("b");
  cluster->Advance(seconds(1));
  EXPECT_EQ(cluster->machine().state(), v1::RUN_STATE_FORMING);  // a is waited for
  cluster->Reconnect("a");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(3)));
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ARestartedCoordinatorThatFindsNobodyRunningFormsAtOnceWhenAllAreBack) {
  FakeCluster::Options options = TwoWorkers();
  options.machine.membership.join_window = seconds(30);
  auto cluster = Running(options);
  cluster->Advance(seconds(1));
  cluster->KillTrainer("a");
  cluster->Advance(milliseconds(100));
  ASSERT_EQ(cluster->machine().state(), v1::RUN_STATE_FORMING);
  cluster->RestartCoordinator();
  cluster->Reconnect("a");
  cluster->Reconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(2)));
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ARestartedCoordinatorThatFindsTheStateWaitsForOthersOnlyWhileSomeComeBack) {
  FakeCluster::Options options = ThreeWorkers();
  options.machine.membership.join_window = seconds(60);
  auto cluster = RunningThree(options);
  cluster->Advance(seconds(1));
  cluster->RestartCoordinator();
  cluster->Remove("a");
  cluster->Advance(seconds(1));
  cluster->Reconnect("b");
  EXPECT_FALSE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(1900)));
  cluster->Reconnect("c");
  EXPECT_FALSE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(1900)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(1)))
      << cluster->machine().Status().reason();
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  EXPECT_GT(cluster->machine().Status().step(), 5);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ARestartedCoordinatorThatFindsNoStateWaitsForTheReattachWindow) {
  FakeCluster::Options options = TwoWorkers();
  options.machine.membership.join_window = seconds(60);
  auto cluster = Running(options);
  cluster->Advance(seconds(1));
  cluster->KillTrainer("a");
  cluster->KillTrainer("b");
  cluster->Advance(milliseconds(100));
  cluster->Remove("a");
  cluster->RestartCoordinator();
  cluster->Reconnect("b");
  EXPECT_FALSE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(9500)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(3)));
  EXPECT_EQ(cluster->machine().Status().num_members(), 1);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ARestartedCoordinatorWithoutARecordLearnsTheGenerationFromTheWorkers) {
  auto cluster = Running();
  cluster->Advance(seconds(1));
  cluster->KillTrainer("a");
  cluster->Advance(milliseconds(100));  // in FORMING(2), where no members are on record
  cluster->RestartCoordinator();
  cluster->Reconnect("a");
  cluster->Reconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_GT(cluster->machine().generation(), 2);
  EXPECT_GT(cluster->machine().Status().step(), 5);  // b's state was used
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ACrashLoopEndsTheRunWithTheLastLogLines) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 13; }));
  for (int i = 0; i < 4 && !cluster->outcome(); ++i) {
    cluster->KillTrainer("b", 6, 0, "boom in iteration 13");
    ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_FORMING));
    cluster->AdvanceUntil(
        [&] { return cluster->machine().state() == v1::RUN_STATE_RUNNING || cluster->outcome(); });
  }
  ASSERT_TRUE(cluster->outcome().has_value());
  EXPECT_EQ(cluster->outcome()->state, "FAILED");
  EXPECT_EQ(cluster->outcome()->exit_code, 93);
  EXPECT_THAT(cluster->outcome()->reason, HasSubstr("at iteration 1"));
  EXPECT_THAT(cluster->outcome()->reason, HasSubstr("boom in iteration 13"));
  EXPECT_THAT(cluster->outcome()->reason,
              HasSubstr("was killed by signal 6; its last batch was iteration 1"));
  EXPECT_THAT(cluster->outcome()->reason,
              HasSubstr("virtual rank 1, samples at positions 40 to 43 (images/7.jpg, …)"));
}

TEST(RunMachine, ACrashAtTheSameIterationAfterEachReloadIsALoopToo) {
  FakeCluster::Options options = TwoWorkers();
  options.expected_workers = 1;
  options.run.virtual_ranks = 1;
  FakeCluster cluster(options);
  cluster.Add("a", "n1", 0);
  for (int i = 0; i < 8 && !cluster.outcome(); ++i) {
    // What is known of the step when it dies is up to two steps old.
    ASSERT_TRUE(cluster.AdvanceUntil([&] {
      return (cluster.machine().state() == v1::RUN_STATE_RUNNING &&
              cluster.machine().Status().step() >= 13) ||
             cluster.outcome();
    }));
    cluster.KillTrainer("a", 11);
    cluster.Advance(milliseconds(100));
  }
  ASSERT_TRUE(cluster.outcome().has_value());
  EXPECT_EQ(cluster.outcome()->exit_code, 93);
  EXPECT_THAT(cluster.outcome()->reason, HasSubstr("3 times without the run getting any further"));
}

TEST(RunMachine, OccasionalKillsNeverUseUpTheBudget) {
  auto cluster = Running();
  for (int i = 0; i < 12; ++i) {
    const int64_t step = cluster->machine().Status().step();
    cluster->KillTrainer(i % 2 == 0 ? "a" : "b");
    ASSERT_TRUE(cluster->AdvanceUntil(
        [&] { return cluster->machine().Status().step() >= step + 3; }, seconds(60)))
        << i;
  }
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ATrainerThatFailsWhileStartingEndsTheRunWithItsCode) {
  for (const int code : {64, 74, 93}) {
    FakeCluster cluster(TwoWorkers());
    cluster.Add("a", "n1", 0);
    cluster.Add("b", "n2", 1);
    cluster.worker("b").exit_at_start = code;
    ASSERT_TRUE(cluster.AdvanceUntil([&] { return cluster.outcome().has_value(); }));
    EXPECT_EQ(cluster.outcome()->state, "FAILED");
    EXPECT_EQ(cluster.outcome()->exit_code, code);
    EXPECT_EQ(cluster.outcome()->reason, "n2: no such file");
  }
}

TEST(RunMachine, TrainersThatNeverStartEndTheRunWhenAllAreGivenUp) {
  FakeCluster cluster(TwoWorkers());
  cluster.Add("a", "n1", 0);
  cluster.Add("b", "n2", 1);
  cluster.worker("a").exit_at_start = cluster.worker("b").exit_at_start = 1;
  ASSERT_TRUE(cluster.AdvanceUntil([&] { return cluster.outcome().has_value(); }, seconds(600)));
  EXPECT_EQ(cluster.outcome()->exit_code, 93);
  EXPECT_THAT(cluster.outcome()->reason, HasSubstr("no such file"));
}

TEST(RunMachine, ANewcomerThatCannotWorkDoesNotEndARunThatDoes) {
  FakeCluster::Options options = TwoWorkers();
  options.run.virtual_ranks = 4;
  auto cluster = Running(options);
  cluster->Add("c", "n3", 2);
  cluster->worker("c").exit_at_start = 64;
  ExpectSucceeds(*cluster);
  EXPECT_EQ(cluster->machine().generation(), 1);
  EXPECT_THAT(cluster->EventsOf("worker_given_up"), SizeIs(1));
}

TEST(RunMachine, WorkersOfAnotherRunOrANewerTermAreRefused) {
  auto cluster = Running();
  const auto refusal = [&](v1::Hello hello) {
    v1::WorkerMessage message;
    hello.set_worker_id("x");
    *message.mutable_hello() = hello;
    RunActions actions = cluster->machine().Handle(run_event::FromWorker{99, message}, {});
    EXPECT_THAT(actions, SizeIs(1));
    return std::get<run_action::CloseSession>(actions.at(0)).status;
  };
  v1::Hello hello;
  hello.set_run_id("run-2");
  EXPECT_TRUE(absl::IsFailedPrecondition(refusal(hello)));
  hello.set_run_id("run-1");
  hello.set_term(2);
  EXPECT_TRUE(absl::IsFailedPrecondition(refusal(hello)));
}

TEST(RunMachine, ARunWhoseLastCheckpointCannotBeWrittenHasNotSucceeded) {
  for (const bool can_write : {false, true}) {
    auto cluster = Running();
    ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() >= 45; }));
    cluster->SetStorage(can_write, /*can_commit=*/false);
    ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->outcome().has_value(); }));
    EXPECT_EQ(cluster->outcome()->exit_code, 74);
    EXPECT_THAT(cluster->outcome()->reason, HasSubstr("no space left on device"));
    EXPECT_THAT(cluster->outcome()->reason, HasSubstr("the newest one is of step 40"));
    // No digest rather than that of another step.
    EXPECT_EQ(cluster->outcome()->step, 50);
    EXPECT_EQ(cluster->outcome()->state_digest, "");
  }
}

TEST(RunMachine, AStorageThatRecoversBeforeTheLastAttemptIsEnough) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() >= 45; }));
  cluster->SetStorage(/*can_write=*/false, /*can_commit=*/true);
  ASSERT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().num_failed_checkpoints() >= 2; }));
  cluster->SetStorage(true, true);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, AFailedCheckpointIsTriedAgainWhileTrainingGoesOn) {
  auto cluster = Running();
  cluster->SetStorage(/*can_write=*/true, /*can_commit=*/false);
  ASSERT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().num_failed_checkpoints() == 1; }));
  cluster->SetStorage(true, true);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; }));
  EXPECT_EQ(cluster->machine().generation(), 1);
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, ACheckpointWhoseWriterDiedIsDroppedAndTakenAnew) {
  FakeCluster::Options options = TwoWorkers();
  options.write_time = std::chrono::hours(1);
  auto cluster = Running(options);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 12; }));
  // One shard has come, the other never will.
  cluster->worker("b").shard_under_way->first = {};
  cluster->Advance(milliseconds(40));
  cluster->KillTrainer("a");
  ASSERT_TRUE(cluster->AdvanceUntil(
      [&] { return !cluster->EventsOf("checkpoint_dropped").empty(); }, seconds(1)));
  ASSERT_TRUE(cluster->AdvanceUntil(
      [&] {
        for (const std::string& id : cluster->ids()) {
          auto& under_way = cluster->worker(id).shard_under_way;
          if (under_way.has_value() && under_way->second.step() > 10) under_way->first = {};
        }
        return cluster->machine().num_checkpoints() == 1;
      },
      seconds(5)));
  EXPECT_LT(cluster->machine().last_checkpoint()->step(), 20);
}

TEST(RunMachine, AGenerationChangeDoesNotStopACheckpointWhoseWritersLive) {
  FakeCluster::Options options = TwoWorkers();
  options.write_time = std::chrono::hours(1);
  auto cluster = Running(options);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() >= 11; }));
  cluster->Add("c", "n3", 2);
  cluster->Disconnect("c");
  v1::TrainerMessage failed;
  failed.mutable_communication_failed()->set_generation(1);
  v1::WorkerMessage message;
  message.mutable_from_trainer()->set_incarnation(cluster->trainer("a").incarnation);
  *message.mutable_from_trainer()->mutable_message() = failed;
  cluster->worker("a").to_machine.emplace_back(MonotonicTime(), message);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  for (const char* id : {"a", "b"}) cluster->worker(id).shard_under_way->first = {};
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; }));
  EXPECT_EQ(cluster->machine().last_checkpoint()->step(), 10);
}

TEST(RunMachine, ShardsAreToldAgainToARestartedCoordinator) {
  FakeCluster::Options options = TwoWorkers();
  options.write_time = std::chrono::hours(1);
  auto cluster = Running(options);
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() >= 11; }));
  cluster->worker("a").shard_under_way->first = {};
  cluster->Advance(milliseconds(40));
  cluster->RestartCoordinator();
  cluster->worker("b").shard_under_way->first = {};
  cluster->Reconnect("a");
  cluster->Reconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; }));
  EXPECT_EQ(cluster->machine().last_checkpoint()->step(), 10);
  EXPECT_EQ(cluster->machine().generation(), 1);
}

TEST(RunMachine, AnOlderCheckpointThatIsCommittedLaterDoesNotReplaceTheNewest) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() >= 12; }));
  ASSERT_EQ(cluster->machine().last_checkpoint()->step(), 10);
  std::vector<run_event::CheckpointFinished> finished;
  for (const int64_t step : {15, 16}) {
    v1::WorkerMessage message;
    v1::ShardWritten& written =
        *message.mutable_from_trainer()->mutable_message()->mutable_shard_written();
    message.mutable_from_trainer()->set_incarnation(cluster->trainer("a").incarnation);
    written.set_step(step);
    written.set_generation(1);
    written.set_num_shards(1);
    cluster->machine().Handle(run_event::FromWorker{cluster->worker("a").session, message},
                              cluster->now());
    finished.push_back({.id = {.step = step, .generation = 1}});
    finished.back().checkpoint.set_step(step);
  }
  cluster->machine().Handle(finished[1], cluster->now());
  cluster->machine().Handle(finished[0], cluster->now());
  EXPECT_EQ(cluster->machine().num_checkpoints(), 3);
  EXPECT_EQ(cluster->machine().last_checkpoint()->step(), 16);
}

TEST(RunMachine, ACheckpointOfAPausedRunIsOfTheBoundaryItIsHeldAt) {
  auto cluster = Running();
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().Status().step() == 3; }));
  ASSERT_TRUE(cluster->Command(RunCommand::kPause).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(cluster->Command(RunCommand::kCheckpoint)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_PAUSED, seconds(1)));
  ASSERT_TRUE(cluster->Command(RunCommand::kCheckpoint).ok());
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().num_checkpoints() == 1; }));
  EXPECT_EQ(cluster->machine().last_checkpoint()->step(), cluster->machine().Status().step());
  ASSERT_TRUE(cluster->Command(RunCommand::kResume).ok());
  ExpectSucceeds(*cluster);
}

// Rank 1 of generation 1 says that nothing answers at rank 0's address.
void SayUnreachable(FakeCluster& cluster, int64_t generation) {
  v1::WorkerMessage message;
  v1::FromTrainer& from = *message.mutable_from_trainer();
  from.set_incarnation(1);
  v1::CommunicationFailed& failed = *from.mutable_message()->mutable_communication_failed();
  failed.set_generation(generation);
  failed.set_message("peer rank 0 cannot be reached");
  failed.add_unreachable_ranks(0);
  cluster.worker("b").to_machine.emplace_back(MonotonicTime(), message);
}

TEST(RunMachine, TwoMembersThatCannotReachEachOtherArePartedAndTriedAgainLater) {
  FakeCluster::Options options = TwoWorkers();
  options.run.target_step = 1000;
  auto cluster = Running(options);
  cluster->Advance(seconds(1));
  SayUnreachable(*cluster, 1);
  cluster->Advance(seconds(2));
  EXPECT_EQ(WorkerStates(*cluster), "a:0:running b:-1:spare ");
  EXPECT_EQ(cluster->machine().generation(), 2);
  cluster->Advance(seconds(7));
  EXPECT_EQ(cluster->machine().generation(), 2);
  ASSERT_TRUE(
      cluster->AdvanceUntil([&] { return cluster->machine().generation() == 3; }, seconds(3)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING));
  EXPECT_EQ(WorkerStates(*cluster), "a:0:running b:1:running ");
  EXPECT_THAT(cluster->EventsOf("trainer_killed"), IsEmpty());
}

TEST(RunMachine, WhoLosesMostMembersLetsThemTakeOverBeforeItGoesOnWithoutThem) {
  FakeCluster::Options options = ThreeWorkers();
  options.machine.can_be_taken_over = true;
  auto cluster = RunningThree(options);
  cluster->Advance(milliseconds(500));
  EXPECT_TRUE(cluster->machine().HasMostMembers());
  cluster->Disconnect("b");
  cluster->Disconnect("c");
  cluster->Advance(seconds(1));
  EXPECT_FALSE(cluster->machine().HasMostMembers());
  EXPECT_THAT(cluster->machine().Status().reason(), HasSubstr("most members are lost"));
  // b, of order 1, takes over after 3 s, and gets 3 s more to begin.
  EXPECT_FALSE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(4900)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(1)));
  EXPECT_EQ(cluster->machine().Status().num_members(), 1);
  EXPECT_TRUE(cluster->machine().HasMostMembers());
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, WhoTakesOverAFormingRunWaitsForTheOldHostOnlyWhileOthersComeBack) {
  FakeCluster::Options options = ThreeWorkers();
  options.machine.can_be_taken_over = true;
  options.machine.membership.join_window = seconds(60);
  auto cluster = RunningThree(options);
  cluster->Advance(milliseconds(500));
  cluster->Disconnect("b");
  cluster->Disconnect("c");
  cluster->Advance(seconds(1));
  ASSERT_EQ(cluster->machine().state(), v1::RUN_STATE_FORMING);
  cluster->RestartCoordinator();
  cluster->Disconnect("a");
  cluster->Reconnect("b");
  cluster->Advance(milliseconds(500));
  EXPECT_FALSE(cluster->machine().HasMostMembers());
  cluster->Reconnect("c");
  cluster->Advance(milliseconds(100));
  EXPECT_TRUE(cluster->machine().HasMostMembers());
  EXPECT_FALSE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(1800)));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, seconds(1)))
      << cluster->machine().Status().reason();
  EXPECT_EQ(cluster->machine().Status().num_members(), 2);
  EXPECT_TRUE(cluster->machine().HasMostMembers());
  ExpectSucceeds(*cluster);
}

TEST(RunMachine, WhoKeepsHalfOfTheMembersGoesOnAtOnce) {
  FakeCluster::Options options = TwoWorkers();
  options.machine.can_be_taken_over = true;
  auto cluster = Running(options);
  cluster->Disconnect("b");
  ASSERT_TRUE(cluster->AdvanceUntil([&] { return cluster->machine().generation() == 2; }));
  ASSERT_TRUE(cluster->AdvanceUntilState(v1::RUN_STATE_RUNNING, milliseconds(500)));
  ExpectSucceeds(*cluster);
}

}  // namespace
}  // namespace albef
