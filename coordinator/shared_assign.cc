#include "coordinator/shared_assign.h"

namespace albef {
namespace {

constexpr uint64_t kVarint = 0, kLengthDelimited = 2;  // wire types

void AppendVarint(uint64_t value, std::string& bytes) {
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  bytes += static_cast<char>(value);
}

std::string Varint(int field, uint64_t value) {
  std::string bytes;
  AppendVarint(static_cast<uint64_t>(field) << 3 | kVarint, bytes);
  AppendVarint(value, bytes);
  return bytes;
}

// The beginning of a submessage of that many bytes.
std::string Header(int field, size_t size) {
  std::string bytes;
  AppendVarint(static_cast<uint64_t>(field) << 3 | kLengthDelimited, bytes);
  AppendVarint(size, bytes);
  return bytes;
}

}  // namespace

v1::CoordinatorMessage MessageOf(const AssignOrder& order) {
  v1::CoordinatorMessage message;
  v1::ToTrainer& to_trainer = *message.mutable_to_trainer();
  to_trainer.set_incarnation(order.incarnation);
  v1::Assign& assign = *to_trainer.mutable_message()->mutable_assign();
  assign = order.assign->message();
  assign.set_rank(order.rank);
  return message;
}

AssignFrame FrameOf(const AssignOrder& order) {
  AssignFrame frame;
  frame.after = Varint(v1::Assign::kRankFieldNumber, static_cast<uint64_t>(int64_t{order.rank}));
  // From the inside out: assign in control message in to_trainer in coordinator message.
  size_t size = order.assign->bytes().size() + frame.after.size();
  const auto wrap = [&](int field) {
    const std::string header = Header(field, size);
    frame.before.insert(0, header);
    size += header.size();
  };
  wrap(v1::ControlMessage::kAssignFieldNumber);
  wrap(v1::ToTrainer::kMessageFieldNumber);
  const std::string incarnation =
      Varint(v1::ToTrainer::kIncarnationFieldNumber, static_cast<uint64_t>(order.incarnation));
  frame.before.insert(0, incarnation);
  size += incarnation.size();
  wrap(v1::CoordinatorMessage::kToTrainerFieldNumber);
  return frame;
}

}  // namespace albef
