#include "worker/inbox.h"

#include <gtest/gtest.h>

namespace albef {
namespace {

v1::ControlMessage Prepare(int64_t generation) {
  v1::ControlMessage message;
  message.mutable_prepare()->set_generation(generation);
  return message;
}

v1::ControlMessage Raise(uint32_t flags, int64_t checkpoint_from) {
  v1::ControlMessage message;
  message.mutable_raise_flags()->set_flags(flags);
  message.mutable_raise_flags()->set_checkpoint_from(checkpoint_from);
  return message;
}

TEST(Inbox, AFlagIsRaisedUntilItIsServed) {
  Inbox inbox;
  inbox.Put(Raise(v1::FLAG_PAUSE | v1::FLAG_CHECKPOINT, 3));
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_PAUSE | v1::FLAG_CHECKPOINT);
  inbox.Lower(v1::FLAG_PAUSE);
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_CHECKPOINT);
  inbox.CheckpointTaken(2);  // too old to serve
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_CHECKPOINT);
  inbox.CheckpointTaken(3);
  EXPECT_EQ(inbox.Now().flags, 0);
}

TEST(Inbox, ARequestThatComesAfterTheCheckpointItAsksForIsServed) {
  Inbox inbox;
  inbox.Put(Prepare(1));
  inbox.CheckpointTaken(4);  // other members had raised the flag
  inbox.Put(Raise(v1::FLAG_CHECKPOINT | v1::FLAG_RESIZE, 3));
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_RESIZE);
  inbox.Put(Raise(v1::FLAG_CHECKPOINT, 5));
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_RESIZE | v1::FLAG_CHECKPOINT);
}

TEST(Inbox, AHeldTrainerHearsEveryRequest) {
  Inbox inbox;
  inbox.Put(Prepare(1));
  inbox.CheckpointTaken(4);
  inbox.BeginHold();
  inbox.Put(Raise(v1::FLAG_CHECKPOINT, 4));
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_CHECKPOINT);
}

TEST(Inbox, ANewGenerationKnowsNothingOfTheCheckpointsBefore) {
  Inbox inbox;
  inbox.Put(Prepare(1));
  inbox.CheckpointTaken(10);
  inbox.Put(Prepare(2));  // perhaps from an older checkpoint
  inbox.Put(Raise(v1::FLAG_CHECKPOINT, 8));
  EXPECT_EQ(inbox.Now().flags, v1::FLAG_CHECKPOINT);
}

}  // namespace
}  // namespace albef
