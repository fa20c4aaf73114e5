// Whether a trainer lets another one in that says hello (proto/mesh.proto).
//
// A pure function of the two sides' places in the life of the run.
#ifndef ALBEF_COMM_MESH_ADMISSION_H_
#define ALBEF_COMM_MESH_ADMISSION_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "comm/mesh_membership.h"
#include "proto/mesh.pb.h"

namespace albef {

// Where a trainer is in the life of the run.
struct MeshPosition {
  std::string run_id = {};
  int64_t incarnation = 0;
  // Everything up to here is over, including what was never entered.
  MeshEpoch over = {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::min()};
  std::optional<MeshMembership> current = std::nullopt;
};

enum class Admission {
  kNow,
  kLater,  // the hello is from a generation that is not entered yet
};

// FAILED_PRECONDITION, naming both sides' values, for another run and for a term, generation or
// incarnation that is stale or unknown.
absl::StatusOr<Admission> JudgeHello(const mesh::v1::Hello& hello, const MeshPosition& position);

}  // namespace albef

#endif  // ALBEF_COMM_MESH_ADMISSION_H_
