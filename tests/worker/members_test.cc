// Several members of a generation, as threads, against a lone worker: the same bits.
#include <gtest/gtest.h>
#include <torch/utils.h>

#include <functional>
#include <memory>
#include <mutex>
#include <string_view>
#include <thread>
#include <tuple>
#include <vector>

#include "comm/local_communicator.h"
#include "model/initialization.h"
#include "tests/comm/nccl_ranks.h"
#include "tests/model/tiny_model.h"
#include "worker/pretrain_step.h"
#include "worker/state_transfer.h"

namespace albef {
namespace {

constexpr int kVirtualRanks = 4;
constexpr int kIterations = 3;

std::unique_ptr<TrainState> NewState(
    uint64_t seed, const TrainStateOptions& options = {},
    ActivationCheckpointing checkpointing = ActivationCheckpointing::kNone) {
  AlbefOptions model_options = TinyModelOptions(/*queue_size=*/20);
  model_options.vision.activation_checkpointing = checkpointing;
  model_options.bert.activation_checkpointing = checkpointing;
  Albef model(model_options);
  InitializeRandomly(*model, seed);
  model->train();
  return std::make_unique<TrainState>(model, options);
}

// LibTorch's generator belongs to the process, so ranks that are threads take turns from their
// first batch of an iteration until all that they draw is drawn.
class Turn {
 public:
  explicit Turn(std::mutex* mutex) : lock_(*mutex, std::defer_lock) {}

  void Enter(Section section) {
    if (section == Section::kData && !lock_.owns_lock()) lock_.lock();
    if (section == Section::kExchange && lock_.owns_lock()) lock_.unlock();
  }

 private:
  std::unique_lock<std::mutex> lock_;
};

PretrainStep::Options StepOptions(Turn* turn) {
  PretrainStep::Options options;
  options.seed = 5;
  options.virtual_ranks = kVirtualRanks;
  options.batch_size = 4;
  options.steps_per_epoch = 4;
  options.schedule.warmup_lr = 1e-3;
  options.enter = [turn](Section section) { turn->Enter(section); };
  return options;
}

PretrainInputs Inputs(int64_t iteration, int64_t rank) {
  torch::manual_seed(static_cast<uint64_t>(1000 * iteration + rank));
  PretrainInputs inputs;
  inputs.image_BCHW = torch::randn({4, 3, 16, 16});
  inputs.input_ids_BT = torch::randint(5, 40, {4, 6}, torch::kLong);
  inputs.attention_mask_BT = torch::ones({4, 6}, torch::kLong);
  inputs.mlm_input_ids_BT = inputs.input_ids_BT.clone();
  inputs.masked_index_N = torch::tensor({1, 8, 15}, torch::kLong);
  inputs.masked_label_N = inputs.input_ids_BT.flatten().index_select(0, inputs.masked_index_N);
  return inputs;
}

absl::StatusOr<PretrainStep::Report> RunStep(PretrainStep& step, const TrainState& state) {
  const int64_t iteration = state.counters().iteration;
  return step.Run(
      [&](int64_t rank) -> absl::StatusOr<PretrainInputs> { return Inputs(iteration, rank); });
}

// What a lone worker makes of it: the state, and the decision about each iteration.
struct Expected {
  std::unique_ptr<TrainState> state;
  std::vector<GateDecision> decisions;

  explicit Expected(int iterations, const TrainStateOptions& options = {})
      : state(NewState(3, options)) {
    at::set_num_threads(1);  // as the members: the bits depend on it
    std::mutex mutex;
    Turn turn(&mutex);
    PretrainStep step(state.get(), StepOptions(&turn), Place::Alone(kVirtualRanks));
    for (int i = 0; i < iterations; ++i) decisions.push_back(RunStep(step, *state)->decision);
  }
};

// Runs `body(place, turn)` on a thread per member.
template <typename Group>
void RunMembers(Group& group, int size, const std::function<void(Place, Turn&)>& body) {
  std::mutex mutex;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank) {
    threads.emplace_back([&, rank] {
      at::set_num_threads(1);
      Turn turn(&mutex);
      body({.communicator = &group.communicator(rank),
            .generation = 1,
            .rank = rank,
            .slices = *DivideRanks(kVirtualRanks, size)},
           turn);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

Hash128 Digest(const TrainState& state) { return *DigestOf(state, 1); }

// How many members, and whether they multiply in bf16.
class Members : public ::testing::TestWithParam<std::tuple<int, bool>> {};

TEST_P(Members, ReachTheStateOfALoneWorker) {
  const auto& [size, bf16_products] = GetParam();
  const TrainStateOptions options{.bf16_products = bf16_products};
  const Expected expected(kIterations, options);
  LocalGroup group(size);
  std::vector<Hash128> digests(static_cast<size_t>(size));
  RunMembers(group, size, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3, options);
    PretrainStep step(state.get(), StepOptions(&turn), place);
    for (int i = 0; i < kIterations; ++i) {
      const auto report = RunStep(step, *state);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->decision, expected.decisions[static_cast<size_t>(i)]);
      EXPECT_EQ(report->num_pairs, 4 * kVirtualRanks);
    }
    digests[static_cast<size_t>(place.rank)] = Digest(*state);
  });
  for (const Hash128& digest : digests) EXPECT_EQ(ToHex(digest), ToHex(Digest(*expected.state)));
}

INSTANTIATE_TEST_SUITE_P(UpToOnePerVirtualRank, Members,
                         ::testing::Combine(::testing::Range(2, kVirtualRanks + 1),
                                            ::testing::Bool()));

TEST(Members, ReachItWithBlocksThatBackwardRunsAgain) {
  const Expected expected(kIterations);
  LocalGroup group(2);
  RunMembers(group, 2, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3, {}, ActivationCheckpointing::kBlocks);
    PretrainStep::Options options = StepOptions(&turn);
    options.bucket_bytes = 4096;
    PretrainStep step(state.get(), options, place);
    for (int i = 0; i < kIterations; ++i) {
      const auto report = RunStep(step, *state);
      ASSERT_TRUE(report.ok()) << report.status();
      EXPECT_EQ(report->decision, expected.decisions[static_cast<size_t>(i)]);
    }
    EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state)));
  });
}

TEST(Members, SendBucketsWhileBackwardIsStillAtWork) {
  const Expected expected(kIterations);
  LocalGroup group(2);
  RunMembers(group, 2, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3);
    PretrainStep::Options options = StepOptions(&turn);
    options.bucket_bytes = 4096;
    PretrainStep step(state.get(), options, place);
    // Images come first in forward, so that their patches are the last to get a gradient. By then
    // the first bucket must be under way; only this rank's own backward could hold it up.
    constexpr int64_t kFirstExchange = 2;
    int64_t backwards = 0;
    for (const auto& parameter : state->model()->named_parameters()) {
      if (parameter.key() != "visual_encoder.patch_embed.proj.weight") continue;
      parameter.value().register_hook([&](const torch::Tensor&) {
        if (++backwards == place.hosted().size()) group.AwaitOperation(place.rank, kFirstExchange);
      });
    }
    for (int i = 0; i < kIterations; ++i) ASSERT_TRUE(RunStep(step, *state).ok());
    EXPECT_EQ(backwards, kIterations * place.hosted().size());
    EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state)));
  });
}

void FlipBit(const TrainState& state, std::string_view key) {
  for (const StateEntry& entry : state.State()) {
    if (entry.key == key) *static_cast<unsigned char*>(entry.tensor.data_ptr()) ^= 1;
  }
}

// Student, teacher, moments and queues alike: the gate after the damage shows it, and nobody has
// taken a step with the gradients of the damaged state.
TEST(MembersThatDiffer, NameTheMinorityAndEndTheIterationWithoutATrace) {
  const Expected expected(1);
  expected.state->Prologue();
  const Hash128 undisturbed = Digest(*expected.state);
  for (const char* key :
       {"visual_encoder.norm.weight", "text_encoder_m.bert.embeddings.word_embeddings.weight",
        "exp_avg.text_proj.weight", "image_queue"}) {
    LocalGroup group(3);
    RunMembers(group, 3, [&](const Place& place, Turn& turn) {
      const auto state = NewState(3);
      PretrainStep step(state.get(), StepOptions(&turn), place);
      ASSERT_TRUE(RunStep(step, *state).ok());
      if (place.rank == 1) FlipBit(*state, key);
      const auto report = RunStep(step, *state);
      ASSERT_TRUE(report.ok()) << report.status();
      ASSERT_TRUE(report->decision.difference.has_value()) << key;
      EXPECT_EQ(report->decision.difference->minority_ranks, std::vector<int>{1}) << key;
      EXPECT_FALSE(report->decision.committed);
      EXPECT_FALSE(step.holds_iteration());
      EXPECT_EQ(state->counters().iteration, 1);
      if (place.rank != 1) {
        EXPECT_EQ(ToHex(Digest(*state)), ToHex(undisturbed)) << key;
      }
    });
  }
}

TEST(MembersThatDiffer, NameNobodyWhereHalfIsAgainstHalf) {
  LocalGroup group(2);
  RunMembers(group, 2, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3);
    PretrainStep step(state.get(), StepOptions(&turn), place);
    if (place.rank == 0) FlipBit(*state, "visual_encoder.norm.bias");
    const auto report = RunStep(step, *state);
    ASSERT_TRUE(report.ok() && report->decision.difference.has_value());
    EXPECT_TRUE(report->decision.difference->minority_ranks.empty());
    EXPECT_EQ(state->counters().iteration, 0);
  });
}

// The digest of each member's state after all iterations, and the decision about the last one.
struct Ending {
  Hash128 digest;
  GateDecision decision;
};

std::vector<Ending> EndingsWithNccl(int size, GradientOrder order) {
  NcclRanks ranks(size);
  ranks.MustConnect();
  std::vector<Ending> endings(static_cast<size_t>(size));
  RunMembers(ranks, size, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3);
    PretrainStep::Options options = StepOptions(&turn);
    options.gradient_order = order;
    PretrainStep step(state.get(), options, place);
    EXPECT_TRUE(order == GradientOrder::kTree || step.num_gradient_arenas() == 1);
    Ending& ending = endings[static_cast<size_t>(place.rank)];
    for (int i = 0; i < kIterations; ++i) {
      const auto report = RunStep(step, *state);
      ASSERT_TRUE(report.ok()) << report.status();
      ending.decision = report->decision;
    }
    ending.digest = Digest(*state);
  });
  return endings;
}

TEST(MembersWithNccl, ReachTheStateOfALoneWorkerInTreeOrder) {
  const Expected expected(kIterations);
  for (const Ending& ending : EndingsWithNccl(3, GradientOrder::kTree)) {
    EXPECT_EQ(ToHex(ending.digest), ToHex(Digest(*expected.state)));
  }
}

TEST(MembersWithNccl, AgreeInNcclsOrderAndComeCloseToTheTree) {
  const Expected expected(kIterations);
  const std::vector<Ending> endings = EndingsWithNccl(3, GradientOrder::kTransport);
  for (const Ending& ending : endings) {
    EXPECT_EQ(ToHex(ending.digest), ToHex(endings[0].digest));
    const GateDecision& wanted = expected.decisions.back();
    EXPECT_NEAR(ending.decision.loss_mlm, wanted.loss_mlm, 1e-3);
    EXPECT_NEAR(ending.decision.loss_itc, wanted.loss_itc, 1e-3);
    EXPECT_NEAR(ending.decision.loss_itm, wanted.loss_itm, 1e-3);
  }
}

// One bucket holds the tiny arena: features of images and texts, the gradients' two operations,
// then the gate.
constexpr int64_t kGateOperation = 4;

TEST(MembersThatFail, AtTheGateHoldTheIterationAndCanEndItAsTheOthersDid) {
  const Expected expected(1);
  LocalGroup group(2);
  group.FailAt(1, kGateOperation, absl::UnavailableError("connection reset"));
  RunMembers(group, 2, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3);
    PretrainStep step(state.get(), StepOptions(&turn), place);
    EXPECT_FALSE(RunStep(step, *state).ok());
    ASSERT_TRUE(step.holds_iteration()) << "rank " << place.rank;
    EXPECT_EQ(state->counters().iteration, 0);
    step.Apply(expected.decisions[0]);
    EXPECT_FALSE(step.holds_iteration());
    EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state)));
  });
}

TEST(MembersThatFail, BeforeTheGateRepeatTheIterationWithoutATrace) {
  const Expected expected(1);
  for (int64_t operation = 0; operation < kGateOperation; ++operation) {
    LocalGroup group(2);
    group.FailAt(1, operation, absl::UnavailableError("connection reset"));
    RunMembers(group, 2, [&](const Place& place, Turn& turn) {
      const auto state = NewState(3);
      {
        PretrainStep step(state.get(), StepOptions(&turn), place);
        EXPECT_FALSE(RunStep(step, *state).ok());
        EXPECT_FALSE(step.holds_iteration());
      }
      // The survivor goes on alone.
      PretrainStep step(state.get(), StepOptions(&turn), Place::Alone(kVirtualRanks));
      ASSERT_TRUE(RunStep(step, *state).ok());
      EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state))) << "operation " << operation;
    });
  }
}

TEST(MembersThatFail, ComputeOnlyWhatTheLostOneOwed) {
  const Expected expected(2);
  constexpr int64_t kExchangeOfGradients = 2;
  for (int victim = 0; victim < 2; ++victim) {
    LocalGroup group(2);
    group.FailAt(victim, kExchangeOfGradients, absl::UnavailableError("connection reset"));
    RunMembers(group, 2, [&](const Place& place, Turn& turn) {
      const auto state = NewState(3);
      std::optional<UnfinishedIteration> unfinished;
      {
        PretrainStep step(state.get(), StepOptions(&turn), place);
        EXPECT_EQ(step.MissingRanks().size(), static_cast<size_t>(place.hosted().size()));
        EXPECT_FALSE(RunStep(step, *state).ok());
        unfinished = step.TakeUnfinished();
        EXPECT_FALSE(step.TakeUnfinished().has_value());
      }
      ASSERT_TRUE(unfinished.has_value());
      PretrainStep step(state.get(), StepOptions(&turn), Place::Alone(kVirtualRanks),
                        std::move(unfinished));
      for (const int64_t v : step.MissingRanks()) {
        EXPECT_TRUE(v < place.hosted().begin || place.hosted().end <= v);
      }
      EXPECT_EQ(static_cast<int64_t>(step.MissingRanks().size()),
                kVirtualRanks - place.hosted().size());
      ASSERT_TRUE(RunStep(step, *state).ok());
      // The next iteration has nothing to go on with.
      EXPECT_EQ(static_cast<int64_t>(step.MissingRanks().size()), kVirtualRanks);
      ASSERT_TRUE(RunStep(step, *state).ok());
      EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state)));
    });
  }
}

TEST(MembersThatFail, ComputeNothingAgainWhereAnotherTakesTheLostOnesPlace) {
  const Expected expected(1);
  LocalGroup group(2), next(2);
  group.FailAt(1, 2, absl::UnavailableError("connection reset"));
  RunMembers(group, 2, [&](const Place& place, Turn& turn) {
    const auto state = NewState(3);
    std::optional<UnfinishedIteration> unfinished;
    {
      PretrainStep step(state.get(), StepOptions(&turn), place);
      EXPECT_FALSE(RunStep(step, *state).ok());
      if (place.rank == 0) unfinished = step.TakeUnfinished();
    }
    Place again = place;
    again.communicator = &next.communicator(place.rank);
    PretrainStep step(state.get(), StepOptions(&turn), again, std::move(unfinished));
    EXPECT_EQ(step.MissingRanks().empty(), place.rank == 0);
    ASSERT_TRUE(RunStep(step, *state).ok());
    EXPECT_EQ(ToHex(Digest(*state)), ToHex(Digest(*expected.state)));
  });
}

TEST(StateTransfer, GivesReceiversTheWholeStateAndLeavesOthersAlone) {
  const Expected expected(2);
  LocalGroup group(3);
  RunMembers(group, 3, [&](const Place& place, Turn&) {
    // Rank 1 has the state, rank 2 gets it, rank 0 is only there.
    const auto blank = NewState(8);
    const Hash128 before = Digest(*blank);
    TrainState& state = place.rank == 1 ? *expected.state : *blank;
    Communicator& communicator = *place.communicator;
    EXPECT_TRUE(TransferState(state, {.source = 1, .receivers = {2}}, communicator).ok());
    EXPECT_EQ(ToHex(Digest(*blank)), ToHex(place.rank == 2 ? Digest(*expected.state) : before));
    if (place.rank == 2) {
      EXPECT_EQ(blank->counters(), expected.state->counters());
    }
    // All three have done the same operations, so another one fits.
    ExpectAllGathers(communicator);
  });
}

TEST(StateTransfer, ThatBreaksOffLeavesTheReceiverAsItWas) {
  const Expected expected(1);
  LocalGroup group(2);
  group.FailAt(0, 0, absl::UnavailableError("donor is gone"));
  RunMembers(group, 2, [&](const Place& place, Turn&) {
    const auto blank = NewState(8);
    const Hash128 before = Digest(*blank);
    TrainState& state = place.rank == 0 ? *expected.state : *blank;
    EXPECT_FALSE(TransferState(state, {.source = 0, .receivers = {1}}, *place.communicator).ok());
    EXPECT_EQ(ToHex(Digest(*blank)), ToHex(before));
  });
}

}  // namespace
}  // namespace albef
