#include "comm/grpc_communicator.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "tests/comm/communicator_suite.h"
#include "tests/comm/mesh_ranks.h"
#include "tests/comm/ranks.h"

namespace albef {
namespace {

class GrpcRanks : public CommunicatorRanks {
 public:
  explicit GrpcRanks(int size) : mesh_(size), communicators_(static_cast<size_t>(size)) {
    RunRanks(size, [&](int rank) {
      auto connected = GrpcCommunicator::Connect(mesh_.server(rank), mesh_.Membership(rank, 1));
      ASSERT_TRUE(connected.ok()) << connected.status();
      communicators_[static_cast<size_t>(rank)] = *std::move(connected);
    });
  }

  Communicator& communicator(int rank) override {
    return *communicators_[static_cast<size_t>(rank)];
  }
  MeshRanks& mesh() { return mesh_; }

 private:
  MeshRanks mesh_;
  std::vector<std::unique_ptr<Communicator>> communicators_;
};

INSTANTIATE_TEST_SUITE_P(Grpc, CommunicatorSuite,
                         testing::Values([](int size) -> std::unique_ptr<CommunicatorRanks> {
                           return std::make_unique<GrpcRanks>(size);
                         }));

TEST(GrpcCommunicator, LeavingTheGenerationAbortsIt) {
  GrpcRanks ranks(2);
  const Work work = ranks.communicator(0).Exchange(Lane::kMain, "gate", {}, {{1, torch::zeros(1)}});
  ranks.mesh().server(0).Leave({1, 1}, absl::AbortedError("prepare 2"));
  EXPECT_THAT(work.Wait(), FailsWith(absl::StatusCode::kAborted, "gate: prepare 2"));
}

TEST(GrpcCommunicator, KeepsTensorsAliveUntilTheyHaveArrived) {
  GrpcRanks ranks(2);
  const Work sent = ranks.communicator(0).Exchange(
      Lane::kMain, "x", {{1, torch::full({5'000'000}, 2, torch::kInt)}}, {});
  const torch::Tensor received = torch::zeros({5'000'000}, torch::kInt);
  ASSERT_TRUE(ranks.communicator(1).Exchange(Lane::kMain, "x", {}, {{0, received}}).Wait().ok());
  EXPECT_TRUE(received.eq(2).all().item<bool>());
  EXPECT_TRUE(sent.Wait().ok());
}

}  // namespace
}  // namespace albef
