#include "coordinator/shared_assign.h"

#include <google/protobuf/util/message_differencer.h>
#include <gtest/gtest.h>

namespace albef {
namespace {

TEST(SharedAssign, IsTheSameMessageOnTheWire) {
  v1::Assign assign;
  assign.set_term(3);
  assign.set_generation(1'000'000);
  assign.set_source_loads(true);
  assign.set_members(std::string(1000, '\xff'));
  for (int i = 0; i < 300; ++i) assign.add_receiver_ranks(i);
  const auto shared = std::make_shared<const SharedAssign>(assign);
  for (const int rank : {0, 1, 127, 128, 299}) {
    for (const int64_t incarnation : {int64_t{0}, int64_t{1}, int64_t{1} << 60, int64_t{-1}}) {
      const AssignOrder order{.incarnation = incarnation, .rank = rank, .assign = shared};
      const AssignFrame frame = FrameOf(order);
      v1::CoordinatorMessage message;
      ASSERT_TRUE(message.ParseFromString(frame.before + shared->bytes() + frame.after));
      EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(message, MessageOf(order)))
          << rank << " " << incarnation;
    }
  }
}

}  // namespace
}  // namespace albef
