// One Assign for all members of a generation. Each member's differs in its rank only, and grows
// with their number: copies would grow with its square.
#ifndef ALBEF_COORDINATOR_SHARED_ASSIGN_H_
#define ALBEF_COORDINATOR_SHARED_ASSIGN_H_

#include <cstdint>
#include <memory>
#include <string>

#include "proto/coordinator.pb.h"

namespace albef {

// Immutable, and thus safe from any thread.
class SharedAssign {
 public:
  // `message` without a rank.
  explicit SharedAssign(v1::Assign message)
      : message_(std::move(message)), bytes_(message_.SerializeAsString()) {}

  const v1::Assign& message() const { return message_; }
  // On the wire.
  const std::string& bytes() const { return bytes_; }

 private:
  v1::Assign message_;
  std::string bytes_;
};

// To the trainer `incarnation`, which gets `rank`.
struct AssignOrder {
  int64_t incarnation = 0;
  int rank = 0;
  std::shared_ptr<const SharedAssign> assign = {};
};

v1::CoordinatorMessage MessageOf(const AssignOrder& order);

// The same on the wire: before + order.assign->bytes() + after.
struct AssignFrame {
  std::string before;
  std::string after;
};
AssignFrame FrameOf(const AssignOrder& order);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_SHARED_ASSIGN_H_
