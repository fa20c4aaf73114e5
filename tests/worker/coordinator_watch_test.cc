#include "worker/coordinator_watch.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Action = CoordinatorWatch::Action;
using Time = CoordinatorWatch::Time;

constexpr Time kStart{seconds(1000)};
const absl::Status kBroken = absl::UnavailableError("stream broken");

CoordinatorSighting Sighting(int64_t file_term, int64_t pid, int64_t newest_term) {
  CoordinatorSighting sighting;
  sighting.file = {.run_id = "run", .term = file_term, .address = "127.0.0.1:1", .pid = pid};
  if (file_term == 0) sighting.file = {};
  sighting.newest_term = newest_term;
  sighting.address = sighting.file.address;
  return sighting;
}

// Of order `order`, in session with term 4 from kStart on, until it breaks `then` later.
CoordinatorWatch Orphan(int64_t order, CoordinatorWatch::Duration then = seconds(50)) {
  CoordinatorWatch watch({.order = order}, kStart);
  watch.OnWelcome(4, kStart);
  watch.OnClosed(kBroken, kStart + then);
  watch.OnSighting(Sighting(4, 111, 4), kStart + then);
  return watch;
}

TEST(CoordinatorWatch, DoesNothingWhileThereIsASession) {
  CoordinatorWatch watch({.order = 0}, kStart);
  watch.OnWelcome(4, kStart);
  EXPECT_EQ(watch.Decide(kStart + seconds(10000)).action, Action::kNone);
}

TEST(CoordinatorWatch, TakesOverAfterTwoSecondsAndOneMorePerOrder) {
  for (const int64_t order : {0, 1, 5}) {
    CoordinatorWatch watch = Orphan(order);
    const Time due = kStart + seconds(50) + seconds(2 + order);
    EXPECT_EQ(watch.Decide(due - milliseconds(1)).action, Action::kNone) << order;
    const auto decision = watch.Decide(due);
    EXPECT_EQ(decision.action, Action::kStart) << order;
    EXPECT_EQ(decision.after_term, 4) << order;
  }
}

TEST(CoordinatorWatch, GivesWhoeverHasClaimedATermTheTimeToStart) {
  CoordinatorWatch watch = Orphan(1);
  const Time claimed = kStart + seconds(52);
  watch.OnSighting(Sighting(4, 111, 5), claimed);
  EXPECT_EQ(watch.Decide(claimed + milliseconds(10900)).action, Action::kNone);
  const auto decision = watch.Decide(claimed + seconds(11));
  EXPECT_EQ(decision.action, Action::kStart);
  EXPECT_EQ(decision.after_term, 5);
}

TEST(CoordinatorWatch, GivesEachSuccessorOfOneThatWasTooSlowTwiceAsLong) {
  CoordinatorWatch watch = Orphan(0);
  Time now = kStart + seconds(52);
  int64_t pid = 1000;
  for (const int64_t limit : {10, 20, 40}) {
    ASSERT_EQ(watch.Decide(now).action, Action::kStart);
    const int64_t term = *watch.Decide(now).after_term + 1;
    watch.OnStarted(static_cast<pid_t>(pid++), now);
    watch.OnSighting(Sighting(4, 111, term), now);
    EXPECT_EQ(watch.Decide(now + seconds(limit) - milliseconds(1)).action, Action::kNone);
    now += seconds(limit);
  }
  // One that is met ends it.
  watch.OnWelcome(7, now);
  watch.OnClosed(kBroken, now);
  EXPECT_EQ(watch.Decide(now + seconds(2)).action, Action::kStart);
}

TEST(CoordinatorWatch, NeverTakesOverARunThatItHasNotBeenIn) {
  CoordinatorWatch watch({.order = 1, .wait = seconds(600)}, kStart);
  watch.OnSighting(Sighting(3, 111, 3), kStart);
  watch.OnClosed(kBroken, kStart);
  EXPECT_EQ(watch.Decide(kStart + seconds(599)).action, Action::kNone);
  const auto decision = watch.Decide(kStart + seconds(600));
  EXPECT_EQ(decision.action, Action::kGiveUp);
  EXPECT_NE(decision.status.message().find("127.0.0.1:1"), std::string::npos);
}

TEST(CoordinatorWatch, WaitsForAnExternalCoordinatorAndThenNamesIt) {
  CoordinatorWatch watch({.is_embedded = false, .order = 0, .wait = seconds(600)}, kStart);
  watch.OnWelcome(4, kStart);
  watch.OnClosed(kBroken, kStart + seconds(1));
  CoordinatorSighting sighting = Sighting(4, 111, 4);
  sighting.address = "node7:4711";
  watch.OnSighting(sighting, kStart + seconds(1));
  EXPECT_EQ(watch.Decide(kStart + seconds(600)).action, Action::kNone);
  const auto decision = watch.Decide(kStart + seconds(601));
  EXPECT_EQ(decision.action, Action::kGiveUp);
  EXPECT_NE(decision.status.message().find("node7:4711"), std::string::npos);
}

TEST(CoordinatorWatch, ReplacesItsOwnDeadCoordinatorAtOnce) {
  CoordinatorWatch watch({.order = 0}, kStart);
  watch.OnStarted(111, kStart);
  watch.OnWelcome(4, kStart + seconds(1));
  watch.OnSighting(Sighting(4, 111, 4), kStart + seconds(1));
  watch.OnExited(/*has_lost=*/false, "was killed", kStart + seconds(9));
  watch.OnClosed(kBroken, kStart + seconds(9));
  EXPECT_EQ(watch.Decide(kStart + seconds(9)).action, Action::kNone);  // before another look
  watch.OnSighting(Sighting(4, 111, 4), kStart + seconds(9));
  const auto decision = watch.Decide(kStart + seconds(9));
  EXPECT_EQ(decision.action, Action::kStart);
  EXPECT_EQ(decision.after_term, 4);
}

TEST(CoordinatorWatch, DoesNotReplaceItsOwnStaleCoordinatorWhenAHigherTermLives) {
  CoordinatorWatch watch({.order = 0}, kStart);
  watch.OnStarted(111, kStart);
  watch.OnWelcome(4, kStart + seconds(1));
  // This worker was stopped; another one took over meanwhile.
  watch.OnExited(/*has_lost=*/false, "exited with code 1", kStart + seconds(9));
  watch.OnClosed(kBroken, kStart + seconds(9));
  EXPECT_EQ(watch.Decide(kStart + seconds(9)).action, Action::kNone);
  watch.OnSighting(Sighting(5, 222, 5), kStart + seconds(9));
  EXPECT_EQ(watch.Decide(kStart + seconds(9)).action, Action::kNone);
  EXPECT_EQ(watch.Decide(kStart + seconds(18)).action, Action::kNone);
  watch.OnWelcome(5, kStart + seconds(18));
  EXPECT_EQ(watch.Decide(kStart + seconds(18)).action, Action::kNone);
}

TEST(CoordinatorWatch, LeavesTheTermToWhoeverHasItWhenItsOwnLosesTheRace) {
  CoordinatorWatch watch = Orphan(0);
  watch.OnStarted(333, kStart + seconds(52));
  watch.OnSighting(Sighting(4, 111, 5), kStart + seconds(52));
  watch.OnExited(/*has_lost=*/true, "exited with code 0", kStart + seconds(52));
  EXPECT_EQ(watch.Decide(kStart + seconds(61)).action, Action::kNone);
  EXPECT_EQ(watch.Decide(kStart + seconds(62)).action, Action::kStart);
}

TEST(CoordinatorWatch, TheFirstCoordinatorThatDiesEarlyIsStartedAgainAsTheFirst) {
  CoordinatorWatch watch({.order = 0}, kStart);
  watch.OnStarted(111, kStart);
  watch.OnExited(/*has_lost=*/false, "was killed", kStart + seconds(1));
  watch.OnSighting(Sighting(0, 0, 7), kStart + seconds(1));  // an earlier start came to term 7
  const auto decision = watch.Decide(kStart + seconds(1));
  EXPECT_EQ(decision.action, Action::kStart);
  EXPECT_EQ(decision.after_term, std::nullopt);  // so that it is refused where another one lives
}

TEST(CoordinatorWatch, GivesUpACoordinatorThatAlwaysDiesAfterGrowingPauses) {
  CoordinatorWatch watch({.order = 0}, kStart);
  Time now = kStart;
  int starts = 1;
  watch.OnStarted(100, now);
  watch.OnExited(false, "was killed", now);
  while (true) {
    now += milliseconds(100);
    watch.OnSighting(Sighting(0, 0, 0), now);
    const auto decision = watch.Decide(now);
    if (decision.action == Action::kGiveUp) break;
    if (decision.action != Action::kStart) continue;
    watch.OnStarted(100 + ++starts, now);
    watch.OnExited(false, "was killed", now);
  }
  EXPECT_EQ(starts, 6);
  EXPECT_GT(now - kStart, seconds(5));
  EXPECT_LT(now - kStart, seconds(60));
}

TEST(CoordinatorWatch, ReplacesItsOwnCoordinatorThatIsAliveAndSilent) {
  CoordinatorWatch watch({.order = 0}, kStart);
  watch.OnStarted(111, kStart);
  watch.OnWelcome(1, kStart);
  watch.OnSighting(Sighting(1, 111, 1), kStart);
  watch.OnClosed(absl::DeadlineExceededError("silent"), kStart + seconds(20));
  EXPECT_EQ(watch.Decide(kStart + seconds(21)).action, Action::kNone);
  const auto decision = watch.Decide(kStart + seconds(22));
  EXPECT_EQ(decision.action, Action::kStart);
  EXPECT_EQ(decision.after_term, 1);
}

TEST(CoordinatorWatch, EndsWithARunThatEndedMeanwhile) {
  CoordinatorWatch watch = Orphan(1);
  CoordinatorSighting sighting = Sighting(4, 111, 4);
  sighting.ended = Outcome{.state = "PREEMPTED", .exit_code = 75};
  watch.OnSighting(sighting, kStart + seconds(50));
  EXPECT_EQ(watch.Decide(kStart + seconds(50)).action, Action::kNone);
  const auto decision = watch.Decide(kStart + seconds(51));
  EXPECT_EQ(decision.action, Action::kRunEnded);
  EXPECT_EQ(decision.ended.exit_code, 75);
}

TEST(CoordinatorWatch, ARefusalThatMayHealCountsOnceItLasts) {
  CoordinatorWatch watch({.order = 1}, kStart);
  const absl::Status stale = absl::FailedPreconditionError("this coordinator's term is 3");
  watch.OnClosed(stale, kStart);
  watch.OnClosed(stale, kStart + seconds(4));
  EXPECT_EQ(watch.Decide(kStart + seconds(4)).action, Action::kNone);
  watch.OnClosed(kBroken, kStart + seconds(5));  // it is gone
  EXPECT_EQ(watch.Decide(kStart + seconds(6)).action, Action::kNone);
  watch.OnClosed(stale, kStart + seconds(7));
  EXPECT_EQ(watch.Decide(kStart + seconds(11)).action, Action::kNone);
  const auto decision = watch.Decide(kStart + seconds(12));
  EXPECT_EQ(decision.action, Action::kRefused);
  EXPECT_EQ(decision.status, stale);
}

TEST(CoordinatorWatch, ARefusalThatCannotHealCountsAtOnce) {
  CoordinatorWatch watch({.order = 1}, kStart);
  watch.OnClosed(absl::InvalidArgumentError("seed differs"), kStart);
  EXPECT_EQ(watch.Decide(kStart).action, Action::kRefused);
}

// The pulse of term 4 as seen from kStart + `after` on, every 500 ms for so long.
void Beat(CoordinatorWatch& watch, CoordinatorWatch::Duration after,
          CoordinatorWatch::Duration duration, bool has_most, int64_t newest_term = 4) {
  static int64_t beat = 0;
  for (auto past = milliseconds(0); past <= duration; past += milliseconds(500)) {
    CoordinatorSighting sighting = Sighting(4, 111, newest_term);
    sighting.pulse = Pulse{.term = 4, .beat = ++beat, .has_most = has_most};
    watch.OnSighting(sighting, kStart + after + past);
  }
}

TEST(CoordinatorWatch, TakesNothingOverFromACoordinatorThatLeadsTheOthers) {
  CoordinatorWatch watch = Orphan(0);
  Beat(watch, seconds(50), seconds(100), /*has_most=*/true);
  EXPECT_EQ(watch.Decide(kStart + seconds(151)).action, Action::kNone);
  // Should it die, those that it led go first.
  EXPECT_EQ(watch.Decide(kStart + seconds(150) + seconds(11)).action, Action::kNone);
  EXPECT_EQ(watch.Decide(kStart + seconds(150) + seconds(12)).action, Action::kStart);
}

TEST(CoordinatorWatch, TakesOverFromACoordinatorThatHasLostMostMembersOrItsTerm) {
  CoordinatorWatch watch = Orphan(1);
  Beat(watch, seconds(50), seconds(3), /*has_most=*/false);
  EXPECT_EQ(watch.Decide(kStart + seconds(53)).action, Action::kStart);
  CoordinatorWatch other = Orphan(1);
  Beat(other, seconds(50), seconds(20), /*has_most=*/true, /*newest_term=*/5);
  EXPECT_EQ(other.Decide(kStart + seconds(70)).action, Action::kStart);
}

TEST(CoordinatorWatch, ALastBeatThatIsFoundAfterTheSessionIsNoSign) {
  CoordinatorWatch watch({.order = 0}, kStart);
  Beat(watch, seconds(0), seconds(1), /*has_most=*/true);
  watch.OnWelcome(4, kStart + seconds(1));
  watch.OnClosed(kBroken, kStart + seconds(50));
  for (const int64_t second : {50, 51, 52}) {
    CoordinatorSighting sighting = Sighting(4, 111, 4);
    sighting.pulse = Pulse{.term = 4, .beat = 77, .has_most = true};
    watch.OnSighting(sighting, kStart + seconds(second));
  }
  EXPECT_EQ(watch.Decide(kStart + seconds(52)).action, Action::kStart);
}

}  // namespace
}  // namespace albef
