// Ranks as threads that meet in a mesh and talk through a fake NCCL. For tests.
#ifndef ALBEF_TESTS_COMM_NCCL_RANKS_H_
#define ALBEF_TESTS_COMM_NCCL_RANKS_H_

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <utility>
#include <vector>

#include "comm/nccl_communicator.h"
#include "tests/comm/communicator_suite.h"
#include "tests/comm/fake_nccl.h"
#include "tests/comm/mesh_ranks.h"
#include "tests/comm/ranks.h"

namespace albef {

class NcclRanks : public CommunicatorRanks {
 public:
  using Connected = absl::StatusOr<std::unique_ptr<Communicator>>;

  explicit NcclRanks(int size) : size_(size), mesh_(size) {
    for (int rank = 0; rank < size; ++rank) devices_.push_back(nccl_.NewDevice());
  }

  // As each rank sees it.
  std::vector<Connected> Connect(
      int64_t generation = 1, std::chrono::milliseconds connect_limit = std::chrono::minutes(1),
      std::chrono::milliseconds abort_patience = std::chrono::minutes(1)) {
    std::vector<Connected> connected;
    for (int rank = 0; rank < size_; ++rank) connected.emplace_back(absl::UnknownError("none"));
    RunRanks(size_, [&](int rank) {
      connected[static_cast<size_t>(rank)] =
          NcclCommunicator::Connect(mesh_.server(rank), mesh_.Membership(rank, generation),
                                    {.nccl = nccl_.api(),
                                     .device = devices_[static_cast<size_t>(rank)],
                                     .connect_limit = connect_limit,
                                     .abort_patience = abort_patience});
    });
    return connected;
  }

  // For communicator(), instead of those of the generation before.
  void MustConnect(int64_t generation = 1,
                   std::chrono::milliseconds abort_patience = std::chrono::minutes(1)) {
    communicators_.clear();
    for (Connected& each : Connect(generation, std::chrono::minutes(1), abort_patience)) {
      if (!each.ok()) ADD_FAILURE() << each.status();
      communicators_.push_back(each.ok() ? *std::move(each) : nullptr);
    }
  }

  Communicator& communicator(int rank) override {
    return *communicators_[static_cast<size_t>(rank)];
  }
  void Destroy(int rank) { communicators_[static_cast<size_t>(rank)] = nullptr; }

  FakeNccl& nccl() { return nccl_; }
  MeshRanks& mesh() { return mesh_; }
  StreamDevice& device(int rank) { return *devices_[static_cast<size_t>(rank)]; }

 private:
  const int size_;
  FakeNccl nccl_;
  MeshRanks mesh_;
  std::vector<std::shared_ptr<StreamDevice>> devices_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
};

}  // namespace albef

#endif  // ALBEF_TESTS_COMM_NCCL_RANKS_H_
