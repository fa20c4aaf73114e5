// Random histories: whatever happens in whatever order, the invariants in run_machine.h hold
// (FakeCluster checks every message) and a run that is left in peace ends.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/coordinator/fake_cluster.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class History {
 public:
  explicit History(uint64_t seed) : cluster_(MakeOptions(seed)), random_(seed * 7919 + 1) {
    for (int i = 0; i < 2; ++i) AddWorker();
  }

  FakeCluster& cluster() { return cluster_; }

  // One thing that goes wrong, or that somebody wants.
  void Disturb() {
    const std::vector<std::string> ids = cluster_.ids();
    const auto any = [&] { return ids.empty() ? std::string() : ids[Below(ids.size())]; };
    const std::string id = any();
    if (id.empty()) return AddWorker();
    FakeCluster::Worker& worker = cluster_.worker(id);
    switch (Below(16)) {
      case 0:
      case 1:
        return AddWorker();
      case 2:
        if (ids.size() > 1) cluster_.Remove(id);
        return;
      case 3:
      case 4:
        cluster_.KillTrainer(id);
        return;
      case 5:
        cluster_.KillTrainer(id, 6);
        return;
      case 6:
        if (worker.trainer.has_value()) worker.trainer->is_stopped = true;
        return;
      case 7:
        if (worker.trainer.has_value()) worker.trainer->is_stuck = true;
        return;
      case 8:
        worker.is_silent = true;
        return;
      case 9:
        cluster_.Disconnect(id);
        return;
      case 10:
        cluster_.Reconnect(id);
        return;
      case 11:
        cluster_.Command(Below(2) == 0 ? RunCommand::kPause : RunCommand::kResume).IgnoreError();
        return;
      case 12:
        cluster_.Command(RunCommand::kDrainWorker, id).IgnoreError();
        return;
      case 13:
        cluster_.StopCoordinator();
        return;
      case 14:
        cluster_.RestartCoordinator();
        return;
      case 15:
        if (worker.trainer.has_value() && worker.trainer->phase == v1::TRAINER_PHASE_RUNNING) {
          worker.trainer->is_corrupt = true;
        }
        return;
    }
  }

  // Supervisors dial again, whoever was stopped goes on, paused runs are resumed.
  void Heal() {
    cluster_.ContinueCoordinator();
    for (const std::string& id : cluster_.ids()) {
      FakeCluster::Worker& worker = cluster_.worker(id);
      worker.is_silent = false;
      if (worker.session == 0) cluster_.Reconnect(id);
      if (!worker.trainer.has_value()) continue;
      worker.trainer->is_stopped = false;
      worker.trainer->is_stuck = false;
    }
    if (cluster_.ids().empty()) AddWorker();
    cluster_.Command(RunCommand::kResume).IgnoreError();
  }

  uint64_t Below(uint64_t n) { return random_() % n; }

 private:
  static FakeCluster::Options MakeOptions(uint64_t seed) {
    FakeCluster::Options options;
    options.seed = seed;
    options.machine.run_id = "run";
    options.machine.membership.join_window = seconds(3);
    options.machine.hangs = {.hang_limit = seconds(2), .startup_limit = seconds(20)};
    options.machine.max_crashed_generations = 1000;  // here faults are not the trainer's own
    options.machine.max_killed_generations = 1000;
    options.machine.max_fruitless_generations = 1000;
    options.machine.restarts.max_failures_without_progress = 1000;
    options.run.virtual_ranks = 1 + static_cast<int64_t>(seed % 4);
    options.run.target_step = 60;
    options.max_delay = milliseconds((seed / 4) % 3 * 60);
    return options;
  }

  void AddWorker() {
    if (cluster_.ids().size() >= 6) return;
    const std::string id = "w" + std::to_string(num_workers_++);
    cluster_.Add(id, "n" + std::to_string(Below(3)),
                 Below(4) == 0 ? -1 : static_cast<int64_t>(num_workers_));
  }

  FakeCluster cluster_;
  std::mt19937_64 random_;
  int num_workers_ = 0;
};

// ALBEF_HISTORIES: how many; the default takes seconds.
uint64_t NumHistories(uint64_t fallback) {
  const char* text = std::getenv("ALBEF_HISTORIES");
  return text == nullptr ? fallback : std::strtoull(text, nullptr, 10);
}

TEST(RunMachineProperty, EveryHistoryEndsOnceItIsLeftInPeace) {
  for (uint64_t seed = 1; seed <= NumHistories(200); ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    History history(seed);
    FakeCluster& cluster = history.cluster();
    for (int i = 0; i < 25 && !cluster.outcome(); ++i) {
      cluster.Advance(milliseconds(20) * static_cast<int64_t>(1 + history.Below(100)));
      history.Disturb();
      if (history.Below(8) == 0) cluster.Suspend(seconds(static_cast<int64_t>(history.Below(30))));
    }
    for (int i = 0; i < 200 && !cluster.outcome(); ++i) {
      history.Heal();
      cluster.Advance(seconds(1));
    }
    ASSERT_TRUE(cluster.outcome().has_value())
        << cluster.machine().Status().ShortDebugString() << "\n"
        << cluster.machine().Workers().ShortDebugString();
    if (cluster.outcome()->state != "PREEMPTED") {
      ASSERT_EQ(cluster.outcome()->state, "SUCCEEDED") << cluster.outcome()->reason;
      ASSERT_EQ(cluster.outcome()->step, 60);
    }
    if (HasFailure()) return;
  }
}

TEST(RunMachineProperty, FlappingWorkersDoNotStopTheRun) {
  for (uint64_t seed = 1; seed <= NumHistories(200) / 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    FakeCluster::Options options;
    options.seed = seed;
    options.run = {.virtual_ranks = 4, .target_step = 200};
    options.expected_workers = 1;
    options.max_delay = milliseconds(30);
    FakeCluster cluster(options);
    cluster.Add("steady", "n0", 0);
    ASSERT_TRUE(cluster.AdvanceUntilState(v1::RUN_STATE_RUNNING));
    // Comes, lives for a moment, dies or breaks its stream; for ever, under new names too.
    int flap = 0;
    const bool keeps_its_name = seed % 2 == 0;
    const bool ended = cluster.AdvanceUntil(
        [&] {
          if (cluster.outcome().has_value()) return true;
          if (cluster.random()() % 40 != 0) return false;
          const std::string last = "flap" + std::to_string(keeps_its_name ? 0 : flap);
          if (flap > 0 && cluster.worker(last).session != 0) {
            switch (cluster.random()() % 3) {
              case 0:
                cluster.KillTrainer(last);
                break;
              case 1:
                cluster.Disconnect(last);
                break;
              case 2:
                cluster.Remove(last);
                break;
            }
          } else {
            ++flap;
            cluster.Add("flap" + std::to_string(keeps_its_name ? 0 : flap), "n1", flap);
          }
          return false;
        },
        seconds(600));
    ASSERT_TRUE(ended) << cluster.machine().Status().ShortDebugString();
    EXPECT_EQ(cluster.outcome()->state, "SUCCEEDED") << cluster.outcome()->reason;
    EXPECT_GT(flap, 3);
  }
}

TEST(RunMachineProperty, ARunWithoutAnyProgressEnds) {
  for (uint64_t seed = 1; seed <= NumHistories(200) / 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    FakeCluster::Options options;
    options.seed = seed;
    options.expected_workers = 2;
    options.max_delay = milliseconds(30);
    FakeCluster cluster(options);
    cluster.Add("a", "n0", 0);
    cluster.Add("b", "n0", 1);
    // Whenever members synchronise, something kills one of them.
    const bool ended = cluster.AdvanceUntil(
        [&] {
          if (cluster.machine().state() == v1::RUN_STATE_SYNCING) {
            const std::string id = cluster.random()() % 2 == 0 ? "a" : "b";
            switch (cluster.random()() % 4) {
              case 0:
                cluster.KillTrainer(id, 9);
                break;
              case 1:
                cluster.KillTrainer(id, 11);
                break;
              case 2:
                if (cluster.worker(id).trainer) cluster.trainer(id).is_stopped = true;
                break;
              case 3:
                cluster.Disconnect(id);
                cluster.Reconnect(id);
                break;
            }
          }
          return cluster.outcome().has_value();
        },
        seconds(1800));
    ASSERT_TRUE(ended) << cluster.machine().Status().ShortDebugString();
    EXPECT_EQ(cluster.outcome()->exit_code, 93) << cluster.outcome()->reason;
  }
}

}  // namespace
}  // namespace albef
