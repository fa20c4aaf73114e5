#include "coordinator/sync_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

ParkedMember Stateless() { return {}; }

ParkedMember At(int64_t iteration) {
  ParkedMember member;
  member.parked.set_has_state(true);
  member.parked.set_iteration(iteration);
  return member;
}

// Has seen the gate's decision about the iteration before.
ParkedMember Decided(int64_t iteration) {
  ParkedMember member = At(iteration);
  member.parked.mutable_last_decision()->set_iteration(iteration - 1);
  member.parked.mutable_last_decision()->set_committed(true);
  return member;
}

ParkedMember Holding(int64_t iteration) {
  ParkedMember member = At(iteration);
  member.parked.set_holds_iteration(true);
  return member;
}

SyncPlan Plan(const std::vector<ParkedMember>& members) { return PlanSync(members); }

TEST(SyncPlan, WithoutAnyStateRankZeroLoads) {
  const SyncPlan plan = Plan({Stateless(), Stateless(), Stateless()});
  EXPECT_EQ(plan.source_rank, 0);
  EXPECT_TRUE(plan.source_loads);
  EXPECT_THAT(plan.receiver_ranks, ElementsAre(1, 2));
  EXPECT_FALSE(plan.decision.has_value());
}

TEST(SyncPlan, EqualStatesNeedNothing) {
  const SyncPlan plan = Plan({At(7), At(7)});
  EXPECT_FALSE(plan.source_loads);
  EXPECT_THAT(plan.receiver_ranks, IsEmpty());
  EXPECT_EQ(plan.iteration, 7);
  EXPECT_FALSE(plan.decision.has_value());  // nobody saw the gate: all repeat iteration 7
}

TEST(SyncPlan, AMemberOneBehindAppliesTheDecisionAndCopiesNothing) {
  const SyncPlan plan = Plan({Holding(7), Decided(8), Holding(7)});
  EXPECT_EQ(plan.source_rank, 1);
  EXPECT_THAT(plan.receiver_ranks, IsEmpty());
  ASSERT_TRUE(plan.decision.has_value());
  EXPECT_EQ(plan.decision->iteration(), 7);
}

TEST(SyncPlan, WhoeverCannotFollowReceives) {
  const SyncPlan plan = Plan({Stateless(), At(7), Decided(8), Holding(7), Holding(6), Decided(8)});
  EXPECT_EQ(plan.source_rank, 2);
  EXPECT_THAT(plan.receiver_ranks, ElementsAre(0, 1, 4));
}

TEST(SyncPlan, WithoutTheDecisionAMemberOneBehindReceives) {
  const SyncPlan plan = Plan({Holding(7), At(8)});
  EXPECT_THAT(plan.receiver_ranks, ElementsAre(0));
  EXPECT_FALSE(plan.decision.has_value());
}

TEST(SyncPlan, AnOlderDecisionIsNotTheOneThatIsNeeded) {
  ParkedMember stale = At(8);
  stale.parked.mutable_last_decision()->set_iteration(5);
  EXPECT_FALSE(Plan({Holding(7), stale}).decision.has_value());
}

TEST(SyncPlan, ADistrustedMemberReceivesWhateverItHas) {
  ParkedMember wrong = Decided(9);
  wrong.is_distrusted = true;
  const SyncPlan plan = Plan({wrong, At(8), At(8)});
  EXPECT_EQ(plan.source_rank, 1);
  EXPECT_THAT(plan.receiver_ranks, ElementsAre(0));
  ParkedMember other = wrong;
  EXPECT_TRUE(Plan({wrong, other}).source_loads);
}

v1::Synced Synced(int64_t iteration, const std::string& digest) {
  v1::Synced synced;
  synced.set_iteration(iteration);
  synced.set_digest(digest);
  return synced;
}

TEST(DigestComparison, EqualStatesAreEqual) {
  const std::vector<v1::Synced> synced = {Synced(3, "x"), Synced(3, "x")};
  EXPECT_TRUE(CompareDigests(synced).are_equal);
}

TEST(DigestComparison, TheMinorityIsNamed) {
  const std::vector<v1::Synced> synced = {Synced(3, "x"), Synced(3, "y"), Synced(3, "x"),
                                          Synced(4, "x"), Synced(3, "x")};
  const DigestComparison comparison = CompareDigests(synced);
  EXPECT_FALSE(comparison.are_equal);
  EXPECT_THAT(comparison.minority_ranks, ElementsAre(1, 3));
  EXPECT_THAT(comparison.description, HasSubstr("ranks 0,2,4 have 78 at step 3"));
}

TEST(DigestComparison, HalfIsNoMajority) {
  const std::vector<v1::Synced> synced = {Synced(3, "x"), Synced(3, "y")};
  const DigestComparison comparison = CompareDigests(synced);
  EXPECT_FALSE(comparison.are_equal);
  EXPECT_THAT(comparison.minority_ranks, IsEmpty());
}

}  // namespace
}  // namespace albef
