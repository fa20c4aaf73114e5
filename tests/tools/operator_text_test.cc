#include "tools/operator_text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "tools/operator_json.h"

namespace albef {
namespace {

using Json = nlohmann::json;

constexpr double kNow = 1'700'000'000;

v1::Checkpoint SomeCheckpoint() {
  v1::Checkpoint checkpoint;
  checkpoint.set_step(1150);
  checkpoint.set_path("/runs/a/checkpoints/step-0000001150");
  checkpoint.set_state_digest("8a0c");
  checkpoint.set_size_bytes(3'370'000'000);
  checkpoint.set_committed_unix_seconds(kNow - 42);
  return checkpoint;
}

v1::RunStatus RunningStatus() {
  v1::RunStatus status;
  status.set_run_id("a3f2");
  status.set_run_dir("/runs/a");
  status.set_state(v1::RUN_STATE_RUNNING);
  status.set_reason("3 workers train");
  status.set_term(2);
  status.set_generation(5);
  status.set_step(1200);
  status.set_target_step(3000);
  v1::StepReport& step = *status.mutable_last_step();
  step.set_step(1200);
  step.set_epoch(4);
  step.set_loss_mlm(2.5);
  step.set_loss_itc(6.25);
  step.set_loss_itm(0.5);
  step.set_samples_per_second(96.04);
  step.set_seconds_per_step(0.25);
  step.set_data_wait_ratio(0.013);
  status.set_num_members(3);
  status.set_num_spares(1);
  status.set_virtual_ranks(4);
  status.set_efficiency(4.0 / 6);
  *status.mutable_last_checkpoint() = SomeCheckpoint();
  status.set_recoveries(3);
  status.set_state_seconds(75);
  return status;
}

TEST(OperatorText, AStatusSaysWhereTheRunStandsAndWhy) {
  EXPECT_EQ(FormatStatus(RunningStatus(), "127.0.0.1:4000", kNow, {}),
            R"(run         a3f2 in /runs/a
state       RUNNING for 1 min 15 s
reason      3 workers train
step        1200 of 3000 (40.0 %)
loss        9.250 (mlm 2.500, itc 6.250, itm 0.500) at step 1200, epoch 4
speed       96.0 pairs/s, 0.25 s per step, 1 % of it waiting for data, 0:07:30 to go
workers     3 in training, 1 spare, 4 virtual ranks: 67 % efficiency, they cannot be shared out evenly
checkpoint  step 1150, 3.37 GB, 42 s ago, /runs/a/checkpoints/step-0000001150
recoveries  3
from        127.0.0.1:4000, term 2, generation 5
)");
}

TEST(OperatorText, AnEndedRunSaysHowItEndedInsteadOfHowItGoes) {
  v1::RunStatus status = RunningStatus();
  status.set_state(v1::RUN_STATE_FAILED);
  status.set_reason("iteration 7 crashes every trainer\nlast words");
  status.set_exit_code(93);
  status.set_state_digest("8a0c");
  status.set_recoveries(0);
  EXPECT_EQ(FormatStatus(status, "127.0.0.1:4000", kNow, {}),
            R"(run         a3f2 in /runs/a
state       FAILED
reason      iteration 7 crashes every trainer | last words
step        1200 of 3000 (40.0 %)
loss        9.250 (mlm 2.500, itc 6.250, itm 0.500) at step 1200, epoch 4
checkpoint  step 1150, 3.37 GB, 42 s ago, /runs/a/checkpoints/step-0000001150
exit code   93
digest      8a0c
from        127.0.0.1:4000, term 2, generation 5
)");
}

TEST(OperatorText, ARunThatHasNotBegunLeavesOutWhatItDoesNotKnow) {
  v1::RunStatus status;
  status.set_run_id("a3f2");
  status.set_run_dir("/runs/a");
  status.set_state(v1::RUN_STATE_WAITING);
  status.set_reason("waiting for 1 of 2 workers");
  status.set_term(1);
  EXPECT_EQ(FormatStatus(status, "127.0.0.1:4000", kNow, {}),
            R"(run         a3f2 in /runs/a
state       WAITING for 0 s
reason      waiting for 1 of 2 workers
step        0
workers     0 in training
checkpoint  none yet
recoveries  0
from        127.0.0.1:4000, term 1, generation 0
)");
}

TEST(OperatorText, OnlyStatesAreColoured) {
  EXPECT_EQ(FormatBrief(RunningStatus(), {.use_color = true}),
            "\x1b[32mRUNNING\x1b[0m at step 1200 of 3000: 3 workers train\n");
}

TEST(OperatorText, NothingFromTheNetworkReachesTheTerminalAsAControlSequence) {
  v1::RunStatus status;
  status.set_state(v1::RUN_STATE_FORMING);
  status.set_reason("\x1b[2J\x7f\rgone");
  EXPECT_EQ(FormatBrief(status, {}), "FORMING at step 0:  [2J  gone\n");
}

TEST(OperatorText, NewsFitOnALine) {
  EXPECT_EQ(FormatNews(RunningStatus(), {}),
            "RUNNING  step 1200 of 3000  generation 5  3 workers + 1 spare  checkpoint 1150  3 "
            "workers train\n");
}

v1::ListWorkersResponse SomeWorkers() {
  v1::ListWorkersResponse response;
  v1::Worker& member = *response.add_workers();
  member.set_worker_id("n1-4711");
  member.set_host("n1");
  member.set_rank(0);
  member.set_order(0);
  member.set_supervisor_pid(4711);
  member.set_trainer_pid(4712);
  member.set_state("running");
  member.set_step(1200);
  member.set_section("exchange");
  member.set_virtual_rank_begin(0);
  member.set_virtual_rank_end(3);
  v1::Worker& other = *response.add_workers();
  other = member;
  other.set_rank(1);
  other.set_virtual_rank_begin(3);
  other.set_virtual_rank_end(4);
  other.set_supervisor_pid(99);
  other.set_trainer_pid(100);
  other.set_restarts(12);
  v1::Worker& spare = *response.add_workers();
  spare.set_worker_id("n2-12");
  spare.set_host("n2.cluster");
  spare.set_rank(-1);
  spare.set_order(1);
  spare.set_supervisor_pid(12);
  spare.set_state("restarting");
  spare.set_restarts(2);
  return response;
}

TEST(OperatorText, WorkersStandInColumns) {
  EXPECT_EQ(
      FormatWorkers(SomeWorkers(), {}),
      R"(RANK  WORKER   HOST        STATE       STEP  DOING     VIRTUAL RANKS  RESTARTS  SUPERVISOR  TRAINER
   0  n1-4711  n1          running     1200  exchange  0 to 2                0        4711     4712
   1  n1-4711  n1          running     1200  exchange  3                    12          99      100
   -  n2-12    n2.cluster  restarting     -  -         -                     2          12        -
)");
  EXPECT_EQ(FormatWorkers({}, {}), "no workers\n");
}

TEST(OperatorText, ATableThatDoesNotFitSaysHowManyRowsAreMissing) {
  const std::string text = FormatWorkers(SomeWorkers(), {.max_rows = 1});
  EXPECT_NE(text.find("… and 2 more\n"), std::string::npos) << text;
}

TEST(OperatorText, CheckpointsStandInColumns) {
  v1::ListCheckpointsResponse response;
  *response.add_checkpoints() = SomeCheckpoint();
  v1::Checkpoint& older = *response.add_checkpoints() = SomeCheckpoint();
  older.set_step(50);
  older.set_path("/runs/a/checkpoints/step-0000000050");
  older.set_committed_unix_seconds(kNow - 7200);
  EXPECT_EQ(FormatCheckpoints(response, kNow, {}),
            R"(STEP         AGE     SIZE  DIGEST  PATH
1150        42 s  3.37 GB  8a0c    /runs/a/checkpoints/step-0000001150
  50  2 h 00 min  3.37 GB  8a0c    /runs/a/checkpoints/step-0000000050
)");
  EXPECT_EQ(FormatCheckpoints({}, kNow, {}), "no checkpoints\n");
}

TEST(OperatorText, AgesHaveTheUnitThatMatters) {
  EXPECT_EQ(FormatAge(0.4), "0 s");
  EXPECT_EQ(FormatAge(59.4), "59 s");
  EXPECT_EQ(FormatAge(59.6), "1 min 00 s");
  EXPECT_EQ(FormatAge(3599), "59 min 59 s");
  EXPECT_EQ(FormatAge(7500), "2 h 05 min");
  EXPECT_EQ(FormatAge(4 * 86400 + 6 * 3600), "4 d 06 h");
  EXPECT_EQ(FormatAge(-1), "?");
  EXPECT_EQ(FormatAge(std::nan("")), "?");
}

TEST(OperatorText, SizesHaveThreeDigits) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(999), "999 B");
  EXPECT_EQ(FormatSize(1000), "1.00 kB");
  EXPECT_EQ(FormatSize(12'345'678), "12.3 MB");
  EXPECT_EQ(FormatSize(999'499'999), "999 MB");
  EXPECT_EQ(FormatSize(999'600'000), "1.00 GB");
  EXPECT_EQ(FormatSize(3'370'000'000), "3.37 GB");
}

TEST(OperatorJson, AStatusHoldsEveryFactByName) {
  const Json json = Json::parse(StatusJson(RunningStatus()));
  EXPECT_EQ(json["state"], "RUNNING");
  EXPECT_EQ(json["reason"], "3 workers train");
  EXPECT_EQ(json["run_id"], "a3f2");
  EXPECT_EQ(json["step"], 1200);
  EXPECT_EQ(json["target_step"], 3000);
  EXPECT_EQ(json["members"], 3);
  EXPECT_EQ(json["spares"], 1);
  EXPECT_EQ(json["last_step"]["loss"], 9.25);
  EXPECT_EQ(json["last_checkpoint"]["path"], "/runs/a/checkpoints/step-0000001150");
  EXPECT_TRUE(json["exit_code"].is_null());
  EXPECT_TRUE(json["state_digest"].is_null());
}

TEST(OperatorJson, TheExitCodeIsThereOnceTheRunHasEnded) {
  v1::RunStatus status = RunningStatus();
  status.set_state(v1::RUN_STATE_SUCCEEDED);
  status.set_state_digest("8a0c");
  const Json json = Json::parse(StatusJson(status));
  EXPECT_EQ(json["exit_code"], 0);
  EXPECT_EQ(json["state_digest"], "8a0c");
}

TEST(OperatorJson, WhatIsNotKnownIsNull) {
  const Json json = Json::parse(StatusJson({}));
  for (const char* key :
       {"run_id", "run_dir", "target_step", "virtual_ranks", "efficiency", "state_seconds",
        "recoveries", "last_step", "last_checkpoint", "exit_code", "state_digest"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_TRUE(json[key].is_null()) << key;
  }
}

TEST(OperatorJson, ALineIsOneLineWhateverTheReasonHolds) {
  v1::RunStatus status = RunningStatus();
  status.set_reason("two\nlines");
  const std::string line = StatusJson(status, JsonLayout::kLine);
  EXPECT_EQ(line.find('\n'), line.size() - 1);
  EXPECT_EQ(Json::parse(line)["reason"], "two\nlines");
}

TEST(OperatorJson, WorkersAreAListUnderTheirName) {
  const Json json = Json::parse(WorkersJson(SomeWorkers()));
  ASSERT_EQ(json["workers"].size(), 3U);
  const Json& member = json["workers"][0];
  EXPECT_EQ(member["host"], "n1");
  EXPECT_EQ(member["rank"], 0);
  EXPECT_EQ(member["supervisor_pid"], 4711);
  EXPECT_EQ(member["trainer_pid"], 4712);
  EXPECT_EQ(member["state"], "running");
  EXPECT_EQ(member["step"], 1200);
  const Json& spare = json["workers"][2];
  EXPECT_EQ(spare["rank"], -1);
  EXPECT_TRUE(spare["trainer_pid"].is_null());
  EXPECT_EQ(Json::parse(WorkersJson({}))["workers"], Json::array());
}

TEST(OperatorJson, CheckpointsAreAListUnderTheirName) {
  v1::ListCheckpointsResponse response;
  *response.add_checkpoints() = SomeCheckpoint();
  const Json json = Json::parse(CheckpointsJson(response));
  ASSERT_EQ(json["checkpoints"].size(), 1U);
  EXPECT_EQ(json["checkpoints"][0], Json::parse(CheckpointJson(SomeCheckpoint())));
  EXPECT_EQ(json["checkpoints"][0]["size_bytes"], 3'370'000'000);
}

}  // namespace
}  // namespace albef
