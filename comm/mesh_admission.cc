#include "comm/mesh_admission.h"

#include "absl/strings/str_cat.h"
#include "comm/lane.h"

namespace albef {
namespace {

std::string Describe(const MeshEpoch& epoch) {
  return absl::StrCat("generation ", epoch.generation, " of term ", epoch.term);
}

absl::Status Refusal(const mesh::v1::Hello& hello, const std::string& why) {
  return absl::FailedPreconditionError(
      absl::StrCat("hello of rank ", hello.sender_rank(), " (incarnation ",
                   hello.sender_incarnation(), ") for generation ", hello.epoch().generation(),
                   " of term ", hello.epoch().term(), " refused: ", why));
}

}  // namespace

absl::StatusOr<Admission> JudgeHello(const mesh::v1::Hello& hello, const MeshPosition& position) {
  const MeshEpoch epoch{hello.epoch().term(), hello.epoch().generation()};
  if (hello.epoch().run_id() != position.run_id) {
    return Refusal(hello, absl::StrCat("it belongs to run ", hello.epoch().run_id(),
                                       ", this process to run ", position.run_id));
  }
  if (hello.receiver_incarnation() != position.incarnation) {
    return Refusal(hello, absl::StrCat("it is meant for incarnation ", hello.receiver_incarnation(),
                                       ", this process is ", position.incarnation));
  }
  if (position.current && epoch < position.current->epoch) {
    return Refusal(hello, absl::StrCat("this process is in ", Describe(position.current->epoch)));
  }
  if (epoch <= position.over) {
    return Refusal(hello, absl::StrCat("this process has left ", Describe(position.over)));
  }
  if (!position.current || epoch > position.current->epoch) return Admission::kLater;

  const MeshMembership& own = *position.current;
  if (hello.receiver_rank() != static_cast<uint32_t>(own.rank)) {
    return Refusal(hello, absl::StrCat("it is meant for rank ", hello.receiver_rank(),
                                       ", this process is rank ", own.rank));
  }
  // The higher rank dials.
  if (hello.sender_rank() <= static_cast<uint32_t>(own.rank) ||
      hello.sender_rank() >= own.members.size()) {
    return Refusal(hello, absl::StrCat("no rank ", hello.sender_rank(), " of ", own.members.size(),
                                       " dials rank ", own.rank));
  }
  const int64_t expected = own.members[hello.sender_rank()].incarnation;
  if (hello.sender_incarnation() != expected) {
    return Refusal(hello, absl::StrCat("the member with that rank is incarnation ", expected));
  }
  if (hello.lane() >= static_cast<uint32_t>(kNumLanes)) {
    return Refusal(hello, absl::StrCat("there is no lane ", hello.lane()));
  }
  return Admission::kNow;
}

}  // namespace albef
