#include "worker/trainer_view.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

using std::chrono::seconds;

constexpr TrainerView::Time kStart{seconds(1000)};

v1::TrainerMessage Parked(int64_t generation, int64_t iteration = 0) {
  v1::TrainerMessage message;
  message.mutable_parked()->set_generation(generation);
  message.mutable_parked()->set_iteration(iteration);
  return message;
}

v1::TrainerMessage Synced(int64_t generation) {
  v1::TrainerMessage message;
  message.mutable_synced()->set_generation(generation);
  message.mutable_synced()->set_digest("0123456789abcdef");
  return message;
}

v1::TrainerMessage Held(int64_t generation, int64_t iteration) {
  v1::TrainerMessage message;
  message.mutable_held()->set_generation(generation);
  message.mutable_held()->set_iteration(iteration);
  return message;
}

v1::ControlMessage Prepare(int64_t generation) {
  v1::ControlMessage message;
  message.mutable_prepare()->set_generation(generation);
  return message;
}

v1::ControlMessage Assign(int64_t generation) {
  v1::ControlMessage message;
  message.mutable_assign()->set_generation(generation);
  return message;
}

v1::ControlMessage RunIn(int64_t generation) {
  v1::ControlMessage message;
  message.mutable_run()->set_generation(generation);
  return message;
}

v1::Hello HelloOf(const TrainerView& view) {
  v1::Hello hello;
  view.FillHello(hello);
  return hello;
}

// Running in generation 3.
TrainerView Running() {
  TrainerView view;
  view.OnStarted(77, 4711, kStart);
  view.OnMessage(Parked(0), kStart);
  view.OnControl(Prepare(3));
  view.OnMessage(Parked(3, 8), kStart);
  view.OnControl(Assign(3));
  view.OnMessage(Synced(3), kStart);
  view.OnControl(RunIn(3));
  return view;
}

TEST(TrainerView, WithoutATrainerHelloSaysSo) {
  TrainerView view;
  EXPECT_FALSE(view.IsAlive());
  EXPECT_EQ(HelloOf(view).trainer_incarnation(), 0);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_NONE);
  EXPECT_EQ(view.SilentSeconds(kStart), 0);
}

TEST(TrainerView, FollowsATrainerThroughAGeneration) {
  TrainerView view;
  view.OnStarted(77, 4711, kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_STARTING);
  EXPECT_EQ(HelloOf(view).trainer_incarnation(), 77);
  EXPECT_EQ(HelloOf(view).trainer_pid(), 4711);
  view.OnMessage(Parked(0), kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_PARKED);
  view.OnControl(Prepare(3));
  view.OnMessage(Parked(3, 8), kStart);
  EXPECT_EQ(HelloOf(view).generation(), 3);
  EXPECT_EQ(HelloOf(view).parked().iteration(), 8);
  view.OnControl(Assign(3));
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_ASSIGNED);
  view.OnMessage(Synced(3), kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_SYNCED);
  EXPECT_EQ(HelloOf(view).synced().digest(), "0123456789abcdef");
  view.OnControl(RunIn(3));
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_RUNNING);
  EXPECT_TRUE(HelloOf(view).has_synced());
  EXPECT_FALSE(HelloOf(view).has_parked());
  view.OnMessage(Held(3, 12), kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_HELD);
  EXPECT_EQ(HelloOf(view).held().iteration(), 12);
  EXPECT_EQ(HelloOf(view).iteration(), 12);
  v1::ControlMessage resume;
  resume.mutable_resume()->set_generation(3);
  view.OnControl(resume);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_RUNNING);
}

TEST(TrainerView, APrepareCountsOnceItIsAnswered) {
  TrainerView view = Running();
  view.OnControl(Prepare(4));
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_RUNNING);
  EXPECT_EQ(HelloOf(view).generation(), 3);
  view.OnMessage(Parked(4, 9), kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_PARKED);
  EXPECT_EQ(HelloOf(view).generation(), 4);
}

TEST(TrainerView, WhatBelongsToAnOlderGenerationChangesNothing) {
  TrainerView view = Running();
  view.OnMessage(Parked(4, 9), kStart);
  view.OnMessage(Synced(3), kStart);
  view.OnMessage(Held(3, 9), kStart);
  view.OnControl(Assign(3));
  view.OnControl(RunIn(3));
  view.OnMessage(Parked(3, 8), kStart);
  EXPECT_EQ(HelloOf(view).phase(), v1::TRAINER_PHASE_PARKED);
  EXPECT_EQ(HelloOf(view).generation(), 4);
  EXPECT_EQ(HelloOf(view).parked().iteration(), 9);
}

TEST(TrainerView, SilenceIsMeasuredFromActivityAlone) {
  TrainerView view = Running();
  EXPECT_EQ(view.SilentSeconds(kStart + seconds(2)), 2);
  v1::TrainerMessage activity;
  activity.mutable_activity()->set_iteration(9);
  view.OnMessage(activity, kStart + seconds(5));
  view.OnMessage(Held(3, 9), kStart + seconds(6));
  EXPECT_EQ(view.SilentSeconds(kStart + seconds(7)), 2);
  EXPECT_EQ(HelloOf(view).iteration(), 9);
}

v1::TrainerMessage In(v1::Activity::Section section, double seconds_in_it, double limit_s) {
  v1::TrainerMessage message;
  message.mutable_activity()->set_section(section);
  message.mutable_activity()->set_section_seconds(seconds_in_it);
  message.mutable_activity()->set_section_limit_seconds(limit_s);
  return message;
}

TEST(TrainerView, IsInDoubtWhileItIsSilentOrOverItsLimit) {
  TrainerView view = Running();
  EXPECT_FALSE(view.IsInDoubt(kStart + seconds(100)));  // it starts: nothing was heard of it yet
  view.OnMessage(In(v1::Activity::SECTION_COMPUTE, 2, 3), kStart);
  EXPECT_FALSE(view.IsInDoubt(kStart + seconds(1)));
  EXPECT_TRUE(view.IsInDoubt(kStart + seconds(2)));
  view.OnMessage(In(v1::Activity::SECTION_COMPUTE, 4, 3), kStart + seconds(2));
  EXPECT_TRUE(view.IsInDoubt(kStart + seconds(2)));
  view.OnMessage(In(v1::Activity::SECTION_EXCHANGE, 400, 0), kStart + seconds(2));
  EXPECT_FALSE(view.IsInDoubt(kStart + seconds(2)));
  view.OnExited();
  EXPECT_FALSE(view.IsInDoubt(kStart + seconds(100)));
}

TEST(TrainerView, AHeartbeatCarriesTheNewestActivity) {
  TrainerView view;
  v1::Heartbeat heartbeat;
  view.FillHeartbeat(heartbeat, kStart);
  EXPECT_EQ(heartbeat.trainer_incarnation(), 0);
  EXPECT_FALSE(heartbeat.has_activity());
  view = Running();
  view.OnMessage(In(v1::Activity::SECTION_DATA, 1, 3), kStart);
  view.OnMessage(In(v1::Activity::SECTION_COMPUTE, 2, 3), kStart);
  view.FillHeartbeat(heartbeat, kStart + seconds(5));
  EXPECT_EQ(heartbeat.trainer_incarnation(), 77);
  EXPECT_EQ(heartbeat.trainer_silent_seconds(), 5);
  EXPECT_EQ(heartbeat.activity().section(), v1::Activity::SECTION_COMPUTE);
}

TEST(TrainerView, ABrokenCommunicatorIsToldAgainUntilANewerGeneration) {
  TrainerView view = Running();
  v1::TrainerMessage failed;
  failed.mutable_communication_failed()->set_generation(3);
  view.OnMessage(failed, kStart);
  ASSERT_EQ(view.Unanswered().size(), 1);
  EXPECT_TRUE(view.Unanswered()[0].has_communication_failed());
  view.OnControl(Prepare(4));
  EXPECT_TRUE(view.Unanswered().empty());
}

TEST(TrainerView, LastWordsAreToldAgainUntilTheTrainerIsGone) {
  TrainerView view = Running();
  v1::TrainerMessage failed;
  failed.mutable_failed()->set_exit_code(93);
  view.OnMessage(failed, kStart);
  ASSERT_EQ(view.Unanswered().size(), 1);
  EXPECT_EQ(view.Unanswered()[0].failed().exit_code(), 93);
  view.OnExited();
  EXPECT_TRUE(view.Unanswered().empty());
  EXPECT_FALSE(view.IsAlive());
}

TEST(TrainerView, TheLastBatchIsKnownUntilAnotherTrainerIsStarted) {
  TrainerView view = Running();
  EXPECT_FALSE(view.batch().has_value());
  for (const int64_t iteration : {3, 4}) {
    v1::TrainerMessage begun;
    begun.mutable_batch_begun()->set_iteration(iteration);
    view.OnMessage(begun, kStart);
  }
  EXPECT_EQ(view.batch()->iteration(), 4);
  view.OnExited();
  view.OnStarted(78, 4712, kStart);
  EXPECT_FALSE(view.batch().has_value());
}

TEST(TrainerView, TheNewestShardIsInHelloUntilAnotherTrainerIsStarted) {
  TrainerView view = Running();
  v1::TrainerMessage written;
  written.mutable_shard_written()->set_step(10);
  view.OnMessage(written, kStart);
  written.mutable_shard_written()->set_step(20);
  view.OnMessage(written, kStart);
  EXPECT_EQ(HelloOf(view).shard_written().step(), 20);
  view.OnExited();
  view.OnStarted(78, 4712, kStart);
  EXPECT_FALSE(HelloOf(view).has_shard_written());
}

}  // namespace
}  // namespace albef
