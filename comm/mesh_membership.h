// Who trains together in one generation, as a trainer learns it from the coordinator.
#ifndef ALBEF_COMM_MESH_MEMBERSHIP_H_
#define ALBEF_COMM_MESH_MEMBERSHIP_H_

#include <compare>
#include <cstdint>
#include <string>
#include <vector>

namespace albef {

// A later one replaces an earlier one. Of generations that two coordinators gave the same number,
// the one of the later term is the later.
struct MeshEpoch {
  int64_t term = 0;
  int64_t generation = 0;

  friend auto operator<=>(const MeshEpoch&, const MeshEpoch&) = default;
};

struct MeshMember {
  std::string address = {};  // HOST:PORT of its MeshServer
  int64_t incarnation = 0;
};

struct MeshMembership {
  MeshEpoch epoch = {};
  int rank = 0;                          // of this process
  std::vector<MeshMember> members = {};  // by rank
};

}  // namespace albef

#endif  // ALBEF_COMM_MESH_MEMBERSHIP_H_
