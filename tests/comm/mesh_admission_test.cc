#include "comm/mesh_admission.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace albef {
namespace {

using ::testing::HasSubstr;

constexpr MeshEpoch kCurrent{2, 7};

MeshPosition Position() {
  MeshPosition position{.run_id = "run", .incarnation = 100};
  position.over = {2, 5};
  position.current = MeshMembership{kCurrent, 1, {{"a:1", 90}, {"b:1", 100}, {"c:1", 110}}};
  return position;
}

mesh::v1::Hello Hello(MeshEpoch epoch = kCurrent) {
  mesh::v1::Hello hello;
  hello.mutable_epoch()->set_run_id("run");
  hello.mutable_epoch()->set_term(epoch.term);
  hello.mutable_epoch()->set_generation(epoch.generation);
  hello.set_lane(1);
  hello.set_sender_rank(2);
  hello.set_sender_incarnation(110);
  hello.set_receiver_rank(1);
  hello.set_receiver_incarnation(100);
  return hello;
}

TEST(MeshAdmission, LetsAMemberOfTheCurrentGenerationIn) {
  const auto admission = JudgeHello(Hello(), Position());
  ASSERT_TRUE(admission.ok()) << admission.status();
  EXPECT_EQ(*admission, Admission::kNow);
}

TEST(MeshAdmission, KeepsWhoIsAheadWaiting) {
  for (const MeshEpoch epoch : {MeshEpoch{2, 8}, MeshEpoch{3, 7}, MeshEpoch{3, 1}}) {
    const auto admission = JudgeHello(Hello(epoch), Position());
    ASSERT_TRUE(admission.ok()) << admission.status();
    EXPECT_EQ(*admission, Admission::kLater);
  }
  MeshPosition idle{.run_id = "run", .incarnation = 100};
  EXPECT_EQ(*JudgeHello(Hello({1, 1}), idle), Admission::kLater);
}

TEST(MeshAdmission, RefusesWhoIsStaleOrUnknownAndNamesBothSides) {
  struct Case {
    std::function<void(mesh::v1::Hello&)> change;
    std::string message;
  };
  const Case cases[] = {
      {[](auto& hello) { hello.mutable_epoch()->set_run_id("other"); },
       "it belongs to run other, this process to run run"},
      {[](auto& hello) { hello.mutable_epoch()->set_generation(6); },
       "for generation 6 of term 2 refused: this process is in generation 7 of term 2"},
      {[](auto& hello) { hello.mutable_epoch()->set_term(1); },
       "for generation 7 of term 1 refused: this process is in generation 7 of term 2"},
      {[](auto& hello) { hello.set_receiver_incarnation(99); },
       "it is meant for incarnation 99, this process is 100"},
      {[](auto& hello) { hello.set_receiver_rank(0); },
       "it is meant for rank 0, this process is rank 1"},
      {[](auto& hello) { hello.set_sender_rank(1); }, "no rank 1 of 3 dials rank 1"},
      {[](auto& hello) { hello.set_sender_rank(0); }, "no rank 0 of 3 dials rank 1"},
      {[](auto& hello) { hello.set_sender_rank(3); }, "no rank 3 of 3 dials rank 1"},
      {[](auto& hello) { hello.set_sender_rank(0xffffffff); }, "no rank 4294967295"},
      {[](auto& hello) { hello.set_sender_incarnation(111); },
       "(incarnation 111) for generation 7 of term 2 refused: the member with that rank is "
       "incarnation 110"},
      {[](auto& hello) { hello.set_lane(2); }, "there is no lane 2"},
  };
  for (const Case& each : cases) {
    mesh::v1::Hello hello = Hello();
    each.change(hello);
    const auto admission = JudgeHello(hello, Position());
    EXPECT_EQ(admission.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(admission.status().message()), HasSubstr(each.message));
  }
}

TEST(MeshAdmission, RefusesAGenerationThatWasLeft) {
  MeshPosition position = Position();
  position.current = std::nullopt;
  position.over = kCurrent;
  EXPECT_THAT(std::string(JudgeHello(Hello(), position).status().message()),
              HasSubstr("this process has left generation 7 of term 2"));
  EXPECT_EQ(*JudgeHello(Hello({2, 8}), position), Admission::kLater);
}

}  // namespace
}  // namespace albef
