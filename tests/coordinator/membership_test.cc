#include "coordinator/membership.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "coordinator/severed_pairs.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;
using Readiness = Candidate::Readiness;

constexpr MonotonicTime kStart = MonotonicTime(seconds(1000));

Candidate Ready(std::string id, std::string host, int64_t order) {
  return {.id = std::move(id),
          .host = std::move(host),
          .order = order,
          .readiness = Readiness::kReady,
          .ready_since = kStart};
}

Candidate Member(std::string id, std::string host, int64_t order) {
  Candidate candidate = Ready(std::move(id), std::move(host), order);
  candidate.was_member = candidate.has_state = true;
  return candidate;
}

Candidate Starting(std::string id, std::string host, int64_t order, MonotonicTime until) {
  return {.id = std::move(id),
          .host = std::move(host),
          .order = order,
          .readiness = Readiness::kStarting,
          .wait_until = until,
          .condition = "exited with signal 9, restarting"};
}

MembershipDecision Decide(const std::vector<Candidate>& candidates, const MembershipPolicy& policy,
                          bool is_first, MonotonicDuration after_start) {
  return DecideMembership(candidates, policy, {.waiting_since = kStart, .is_first = is_first},
                          kStart + after_start);
}

TEST(Membership, TheFirstFormingWaitsForAllThatWereStartedTogether) {
  const MembershipPolicy policy{.expected_workers = 3, .join_window = seconds(10)};
  std::vector<Candidate> candidates = {Ready("a", "n1", 0), Ready("b", "n1", 1)};
  MembershipDecision decision = Decide(candidates, policy, true, seconds(1));
  EXPECT_FALSE(decision.is_formed);
  EXPECT_EQ(decision.reason, "waiting for 1 of 3 workers to join");
  candidates.push_back(Ready("c", "n2", 2));
  decision = Decide(candidates, policy, true, seconds(1));
  EXPECT_THAT(decision.members, ElementsAre("a", "b", "c"));
}

TEST(Membership, TheJoinWindowEndsTheWaitForThoseThatNeverCame) {
  const MembershipPolicy policy{.expected_workers = 3, .join_window = seconds(10)};
  const std::vector<Candidate> candidates = {Ready("a", "n1", 0), Ready("b", "n1", 1)};
  EXPECT_FALSE(Decide(candidates, policy, true, milliseconds(9999)).is_formed);
  EXPECT_THAT(Decide(candidates, policy, true, seconds(10)).members, ElementsAre("a", "b"));
}

TEST(Membership, WithoutAnExpectedNumberTheWholeWindowIsGivenUnlessAllPlacesAreTaken) {
  MembershipPolicy policy{.join_window = seconds(10)};
  const std::vector<Candidate> candidates = {Ready("a", "n1", -1), Ready("b", "n1", -1)};
  EXPECT_FALSE(Decide(candidates, policy, true, seconds(9)).is_formed);
  policy.virtual_ranks = 2;
  EXPECT_TRUE(Decide(candidates, policy, true, seconds(0)).is_formed);
}

TEST(Membership, NobodyIsAssignedBeforeAllHaveLeftTheGenerationBefore) {
  std::vector<Candidate> candidates = {Member("a", "n1", 0), Member("b", "n1", 1)};
  candidates[1].readiness = Readiness::kLeaving;
  const MembershipDecision decision = Decide(candidates, {}, false, seconds(100000));
  EXPECT_FALSE(decision.is_formed);
  EXPECT_THAT(decision.reason,
              HasSubstr("1 of 2 workers to leave the generation before: n1 rank 1"));
}

TEST(Membership, ARestartingTrainerIsWaitedForAWhile) {
  const std::vector<Candidate> candidates = {Member("a", "n1", 0),
                                             Starting("b", "n2", 3, kStart + seconds(5))};
  const MembershipPolicy policy{.virtual_ranks = 2};
  const MembershipDecision decision = Decide(candidates, policy, false, seconds(4));
  EXPECT_FALSE(decision.is_formed);
  EXPECT_EQ(decision.reason,
            "waiting for 1 of 2 workers: n2 rank 3: exited with signal 9, restarting");
  EXPECT_THAT(Decide(candidates, policy, false, seconds(5)).members, ElementsAre("a"));
}

TEST(Membership, OneWorkerTakesPart) {
  const std::vector<Candidate> candidates = {Ready("a", "n1", 0)};
  const MembershipDecision decision = Decide(candidates, {.virtual_ranks = 1}, false, seconds(0));
  EXPECT_EQ(decision.reason, "1 worker takes part");
}

TEST(Membership, ASpareTakesThePlaceAtOnce) {
  const std::vector<Candidate> candidates = {Member("a", "n1", 0), Ready("spare", "n3", 5),
                                             Starting("b", "n2", 1, kStart + seconds(5))};
  const MembershipDecision decision = Decide(candidates, {.virtual_ranks = 2}, false, seconds(0));
  EXPECT_THAT(decision.members, ElementsAre("a", "spare"));
}

TEST(Membership, MoreThanVirtualRanksAreSparesAndMembersKeepTheirPlaces) {
  const std::vector<Candidate> candidates = {Ready("new", "n1", 0), Member("b", "n1", 1),
                                             Member("c", "n2", 2)};
  const MembershipDecision decision = Decide(candidates, {.virtual_ranks = 2}, false, seconds(0));
  EXPECT_THAT(decision.members, ElementsAre("b", "c"));
  EXPECT_THAT(decision.spares, ElementsAre("new"));
  EXPECT_EQ(decision.reason, "2 workers take part, 1 spare");
}

TEST(Membership, WithoutAnyStateTheOthersAreWaitedForLonger) {
  std::vector<Candidate> candidates = {Ready("a", "n1", 0),
                                       Starting("b", "n2", 1, kStart + seconds(2))};
  const MembershipPolicy policy{.join_window = seconds(10)};
  EXPECT_FALSE(Decide(candidates, policy, false, seconds(9)).is_formed);
  EXPECT_TRUE(Decide(candidates, policy, false, seconds(10)).is_formed);
  candidates[0].has_state = true;
  EXPECT_TRUE(Decide(candidates, policy, false, seconds(2)).is_formed);
}

TEST(Membership, MinWorkersAreWaitedForWithoutLimit) {
  const std::vector<Candidate> candidates = {Member("a", "n1", 0)};
  const MembershipDecision decision =
      Decide(candidates, {.min_workers = 2}, false, std::chrono::hours(10));
  EXPECT_FALSE(decision.is_formed);
  EXPECT_EQ(decision.reason, "waiting for 1 of 2 workers");
  EXPECT_FALSE(Decide({}, {.min_workers = 0}, false, seconds(0)).is_formed);
}

TEST(Membership, RanksFollowTheSmallestOrderOfAHostThenTheOrder) {
  const std::vector<Candidate> candidates = {Ready("e", "a", 4), Ready("z", "zz", -1),
                                             Ready("c", "b", 1), Ready("d", "a", 3),
                                             Ready("b", "b", 5), Ready("a", "c", 0)};
  EXPECT_THAT(Decide(candidates, {}, false, seconds(0)).members,
              ElementsAre("a", "c", "b", "d", "e", "z"));
}

TEST(Membership, AHostKeepsItsPlaceWhileItsFirstWorkerIsAway) {
  std::vector<Candidate> candidates = {Member("a", "n2", 0), Member("b", "n2", 2),
                                       Member("c", "n1", 1)};
  EXPECT_THAT(Decide(candidates, {}, false, seconds(0)).members, ElementsAre("a", "b", "c"));
  candidates[0].readiness = Readiness::kAbsent;
  EXPECT_THAT(Decide(candidates, {}, false, seconds(0)).members, ElementsAre("b", "c"));
}

TEST(Membership, WorkersWithoutOrderKeepTheOrderOfTheirArrival) {
  std::vector<Candidate> candidates = {Ready("x", "n1", -1), Ready("a", "n1", -1)};
  candidates[0].arrival = 0;
  candidates[1].arrival = 1;
  EXPECT_THAT(Decide(candidates, {.expected_workers = 2}, true, seconds(0)).members,
              ElementsAre("x", "a"));
}

TEST(Membership, EveryDecisionKeepsItsPromises) {
  std::mt19937_64 random(7);
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
  for (int round = 0; round < 20000; ++round) {
    std::vector<Candidate> candidates;
    for (int64_t i = below(7); i > 0; --i) {
      Candidate candidate =
          Ready("w" + std::to_string(i), "n" + std::to_string(below(3)), below(4) == 0 ? -1 : i);
      candidate.readiness = static_cast<Readiness>(below(4));
      candidate.wait_until = kStart + seconds(below(20));
      candidate.was_member = below(2) == 0;
      candidate.has_state = below(2) == 0;
      candidates.push_back(candidate);
    }
    MembershipPolicy policy{.min_workers = below(4), .join_window = seconds(below(20))};
    if (below(2) == 0) policy.virtual_ranks = 1 + below(6);
    if (below(2) == 0) policy.expected_workers = below(8);
    const bool is_first = below(2) == 0;
    const auto now = seconds(below(40));
    const MembershipDecision decision = Decide(candidates, policy, is_first, now);
    EXPECT_FALSE(decision.reason.empty());
    const auto count = [&](Readiness readiness) {
      return std::count_if(candidates.begin(), candidates.end(),
                           [&](const Candidate& c) { return c.readiness == readiness; });
    };
    if (decision.is_formed) {
      EXPECT_EQ(count(Readiness::kLeaving), 0);
      EXPECT_EQ(static_cast<int64_t>(decision.members.size() + decision.spares.size()),
                count(Readiness::kReady));
      EXPECT_LE(static_cast<int64_t>(decision.members.size()), policy.virtual_ranks.value_or(99));
      EXPECT_GE(
          static_cast<int64_t>(decision.members.size()),
          std::min(std::max<int64_t>(1, policy.min_workers), policy.virtual_ranks.value_or(99)));
      if (!decision.spares.empty()) {
        EXPECT_THAT(decision.members, SizeIs(static_cast<size_t>(*policy.virtual_ranks)));
      }
      // The order of what is given in does not matter.
      std::shuffle(candidates.begin(), candidates.end(), random);
      EXPECT_EQ(Decide(candidates, policy, is_first, now).members, decision.members);
    } else {
      EXPECT_THAT(decision.members, IsEmpty());
      // After all windows only those that must leave and min_workers are waited for.
      const bool is_over = now >= seconds(20);
      if (is_over && count(Readiness::kLeaving) == 0) {
        EXPECT_LT(count(Readiness::kReady), std::max<int64_t>(1, policy.min_workers));
      }
    }
  }
}

TEST(Admission, NewcomersWaitForAnIterationAndAreCollected) {
  std::vector<Candidate> candidates = {Member("a", "n1", 0), Ready("b", "n2", 1)};
  const MembershipPolicy policy{.virtual_ranks = 3, .settle_time = milliseconds(500)};
  const auto due = [&](bool has_progress, MonotonicDuration after) {
    return DecideAdmission(candidates, policy, has_progress, kStart + after).is_resize_due;
  };
  EXPECT_FALSE(due(false, seconds(60)));
  EXPECT_FALSE(due(true, milliseconds(499)));
  EXPECT_TRUE(due(true, milliseconds(500)));
  candidates.push_back(Ready("c", "n3", 2));
  EXPECT_TRUE(due(true, milliseconds(0)));  // all places are filled: nobody else to wait for
}

TEST(Admission, NobodyIsInterruptedForASpare) {
  const std::vector<Candidate> candidates = {Member("a", "n1", 0), Ready("b", "n2", 1)};
  EXPECT_FALSE(
      DecideAdmission(candidates, {.virtual_ranks = 1}, true, kStart + seconds(60)).is_resize_due);
}

TEST(Membership, TwoThatCannotReachEachOtherNeverTakePartTogether) {
  std::vector<Candidate> candidates = {Member("a", "n1", 0), Member("b", "n2", 1),
                                       Member("c", "n3", 2)};
  candidates[0].cut_off_from = {"b"};
  candidates[1].cut_off_from = {"a"};
  MembershipDecision decision = Decide(candidates, {}, false, seconds(0));
  EXPECT_THAT(decision.members, ElementsAre("a", "c"));
  EXPECT_THAT(decision.spares, ElementsAre("b"));
  EXPECT_EQ(decision.reason,
            "2 workers take part without those that cannot reach others: n2 rank 1, 1 spare");
  // The one who has most such others goes, and nobody else then has to.
  candidates[0].cut_off_from = {"b", "c"};
  candidates[2].cut_off_from = {"a"};
  EXPECT_THAT(Decide(candidates, {}, false, seconds(0)).members, ElementsAre("b", "c"));
}

TEST(Membership, TooFewThatReachEachOtherAreWaitedForByName) {
  std::vector<Candidate> candidates = {Member("a", "n1", 0), Member("b", "n2", 1)};
  candidates[0].cut_off_from = {"b"};
  candidates[1].cut_off_from = {"a"};
  const MembershipDecision decision =
      Decide(candidates, {.min_workers = 2}, false, std::chrono::hours(1));
  EXPECT_FALSE(decision.is_formed);
  EXPECT_EQ(decision.reason,
            "waiting for 1 of 2 workers without those that cannot reach others: n2 rank 1");
}

TEST(Membership, ANewcomerThatCannotReachAMemberInterruptsNobody) {
  std::vector<Candidate> candidates = {Member("a", "n1", 0), Ready("b", "n2", 1)};
  candidates[1].cut_off_from = {"a"};
  EXPECT_FALSE(DecideAdmission(candidates, {}, true, kStart + seconds(60)).is_resize_due);
  candidates[1].cut_off_from = {"gone"};
  EXPECT_TRUE(DecideAdmission(candidates, {}, true, kStart + seconds(60)).is_resize_due);
}

TEST(SeveredPairs, AreTriedAgainEachTimeLater) {
  SeveredPairs pairs;
  pairs.Note("b", "a", kStart);
  pairs.Note("a", "b", kStart + seconds(1));  // the other says so too
  EXPECT_THAT(pairs.PartnersOf("a", kStart + milliseconds(9999)), ElementsAre("b"));
  EXPECT_THAT(pairs.PartnersOf("b", kStart + milliseconds(9999)), ElementsAre("a"));
  EXPECT_THAT(pairs.PartnersOf("c", kStart), IsEmpty());
  EXPECT_THAT(pairs.PartnersOf("a", kStart + seconds(10)), IsEmpty());
  pairs.Note("a", "b", kStart + seconds(30));
  EXPECT_THAT(pairs.PartnersOf("a", kStart + seconds(49)), ElementsAre("b"));
  for (int i = 0; i < 20; ++i) pairs.Note("a", "b", kStart + std::chrono::hours(i + 1));
  EXPECT_THAT(pairs.PartnersOf("a", kStart + std::chrono::hours(20) + seconds(599)),
              ElementsAre("b"));
  EXPECT_THAT(pairs.PartnersOf("a", kStart + std::chrono::hours(20) + seconds(600)), IsEmpty());
}

TEST(SeveredPairs, AreForgottenWhenTheyConnectOrGo) {
  SeveredPairs pairs;
  pairs.Note("a", "b", kStart);
  pairs.Note("a", "c", kStart);
  const std::vector<std::string> connected = {"b", "a"};
  pairs.OnConnected(connected);
  EXPECT_THAT(pairs.PartnersOf("a", kStart), ElementsAre("c"));
  pairs.Forget("c");
  EXPECT_THAT(pairs.PartnersOf("a", kStart), IsEmpty());
}

}  // namespace
}  // namespace albef
