// NcclCommunicator with the real NCCL, as far as one GPU allows: a lone rank does everything, and
// whatever keeps a second one from connecting ends as it should.
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include "comm/cuda_streams.h"
#include "comm/nccl_communicator.h"
#include "tests/comm/mesh_ranks.h"
#include "tests/comm/ranks.h"

namespace albef {
namespace {

using std::chrono::milliseconds;
using Connected = absl::StatusOr<std::unique_ptr<Communicator>>;

const torch::Device kGpu(torch::kCUDA, 0);

class NcclGpu : public testing::Test {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "no CUDA in this build, or no GPU here";
    const absl::StatusOr<NcclApi> nccl = LoadNccl();
    ASSERT_TRUE(nccl.ok()) << nccl.status();
    int version = 0;
    nccl->get_version(&version);
    RecordProperty("nccl", NcclVersionText(version));
    options_.nccl = *nccl;
    options_.device = CudaStreams(kGpu).value();
  }

  Connected Connect(MeshRanks& mesh, int rank, int64_t generation = 1) const {
    return NcclCommunicator::Connect(mesh.server(rank), mesh.Membership(rank, generation),
                                     options_);
  }

  NcclCommunicator::Options options_;
};

// What a rank does that comes into the mesh but not into NCCL.
std::unique_ptr<MeshGroup> JoinWithoutNccl(MeshRanks& mesh, int rank) {
  absl::StatusOr<std::unique_ptr<MeshGroup>> group =
      mesh.server(rank).Join(mesh.Membership(rank, 1));
  if (!group.ok()) return nullptr;
  static std::byte ids[sizeof(int) + kNumLanes * sizeof(NcclUniqueId)];
  (*group)->Exchange(Lane::kMain, "NCCL's ids", {}, {{0, ids}}).Wait().IgnoreError();
  return *std::move(group);
}

TEST_F(NcclGpu, ALoneRankSumsThroughNcclInGenerationAfterGeneration) {
  MeshRanks mesh(1);
  for (int64_t generation = 1; generation <= 10; ++generation) {
    const Connected connected = Connect(mesh, 0, generation);
    ASSERT_TRUE(connected.ok()) << connected.status();
    Communicator& communicator = **connected;
    std::vector<torch::Tensor> values;
    std::vector<Work> works;
    for (int i = 0; i < 20; ++i) {
      // Queued on the current stream, and not waited for.
      values.push_back(torch::randn({1 << 20}, kGpu).mul_(0).add_(i));
      works.push_back(
          communicator.Sum(i % 2 == 0 ? Lane::kMain : Lane::kGradients, "sum", values.back()));
    }
    for (size_t i = 0; i < works.size(); ++i) {
      ASSERT_TRUE(works[i].Wait().ok()) << works[i].Wait();
      EXPECT_TRUE(values[i].eq(static_cast<double>(i)).all().item<bool>());
    }
    ExpectAllGathers(communicator);
    communicator.Abort(absl::AbortedError("next"));
    EXPECT_THAT(communicator.Sum(Lane::kMain, "later", values[0]).Wait(),
                FailsWith(absl::StatusCode::kAborted, "later: next"));
  }
}

TEST_F(NcclGpu, TwoRanksOnOneGpuAreRefusedByNcclAndHearOfIt) {
  MeshRanks mesh(2);
  RunRanks(2, [&](int rank) {
    const Connected connected = Connect(mesh, rank);
    ASSERT_FALSE(connected.ok());
    // Whoever comes second hears of it from the first.
    EXPECT_TRUE(connected.status().message().find("NCCL") != absl::string_view::npos ||
                connected.status().message().find("peer rank") != absl::string_view::npos)
        << connected.status();
  });
}

TEST_F(NcclGpu, AConnectionThatHangsInNcclEndsAtItsDeadline) {
  MeshRanks mesh(2);
  options_.connect_limit = milliseconds(2000);
  std::unique_ptr<MeshGroup> other;
  std::thread joiner([&] { other = JoinWithoutNccl(mesh, 1); });
  const Connected connected = Connect(mesh, 0);
  joiner.join();
  EXPECT_THAT(connected.status(), FailsWith(absl::StatusCode::kDeadlineExceeded,
                                            "NCCL: rank 0 is still not connected"));
  EXPECT_FALSE(other->status().ok());
}

TEST_F(NcclGpu, LeavingTheGenerationEndsAConnectionThatHangsInNccl) {
  MeshRanks mesh(2);
  std::thread leaver([&] {
    const std::unique_ptr<MeshGroup> other = JoinWithoutNccl(mesh, 1);
    mesh.server(0).Leave({1, 1}, absl::AbortedError("prepare 2"));
  });
  const Connected connected = Connect(mesh, 0);
  leaver.join();
  EXPECT_THAT(connected.status(), FailsWith(absl::StatusCode::kAborted, "prepare 2"));
  // The GPU is none the worse for it.
  MeshRanks lone(1);
  const Connected again = Connect(lone, 0);
  ASSERT_TRUE(again.ok()) << again.status();
  const torch::Tensor values = torch::ones({3}, kGpu);
  EXPECT_TRUE((*again)->Sum(Lane::kMain, "sum", values).Wait().ok());
}

}  // namespace
}  // namespace albef
