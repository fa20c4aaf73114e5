// The servers of several trainers in one process, and the generations they enter. For tests.
#ifndef ALBEF_TESTS_COMM_MESH_RANKS_H_
#define ALBEF_TESTS_COMM_MESH_RANKS_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "comm/mesh_server.h"

namespace albef {

class MeshRanks {
 public:
  // Rank r is incarnation 1000 + r.
  explicit MeshRanks(int size, MeshServer::Options options = {.run_id = "run", .token = "secret"}) {
    for (int rank = 0; rank < size; ++rank) {
      options.incarnation = 1000 + rank;
      auto server = MeshServer::Start(options);
      if (!server.ok()) ADD_FAILURE() << server.status();
      servers_.push_back(*std::move(server));
      members_.push_back({servers_.back()->address(), options.incarnation});
    }
  }

  MeshServer& server(int rank) { return *servers_[static_cast<size_t>(rank)]; }
  // As when the process dies.
  void Kill(int rank) { servers_[static_cast<size_t>(rank)] = nullptr; }

  MeshMembership Membership(int rank, int64_t generation, int64_t term = 1) const {
    return {{term, generation}, rank, members_};
  }
  // What others dial to reach the rank.
  std::string& address(int rank) { return members_[static_cast<size_t>(rank)].address; }

  // All ranks join a generation; null where one cannot.
  std::vector<std::unique_ptr<MeshGroup>> Join(int64_t generation) {
    std::vector<std::unique_ptr<MeshGroup>> groups(servers_.size());
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < servers_.size(); ++rank) {
      threads.emplace_back([&, rank] {
        auto group = servers_[rank]->Join(Membership(static_cast<int>(rank), generation));
        if (!group.ok()) return (void)(ADD_FAILURE() << group.status());
        groups[rank] = *std::move(group);
      });
    }
    for (std::thread& thread : threads) thread.join();
    return groups;
  }

 private:
  std::vector<std::unique_ptr<MeshServer>> servers_;
  std::vector<MeshMember> members_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_MESH_RANKS_H_
