#include "dataloader/batch_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <tuple>

#include "tests/dataloader/stream_fakes.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kSamples = 23, kVirtualRanks = 3, kBatchSize = 2, kRes = 4;

BatchStream::Options TestOptions(int num_samples = kSamples) {
  BatchStream::Options options;
  options.source = std::make_shared<FakeSource>(NumberedSamples(num_samples));
  options.tokenizer = OwnTokenizer();
  options.image_loader = std::make_shared<FakeImageLoader>();
  options.seed = 42;
  options.retry_delays = {std::chrono::milliseconds(0), std::chrono::milliseconds(0)};
  options.image_res = kRes;
  options.plan = *EpochPlan::Create(
      {.num_samples = num_samples, .virtual_ranks = kVirtualRanks, .batch_size = kBatchSize});
  options.virtual_rank_end = kVirtualRanks;
  options.prefetch_batches = 4;
  return options;
}

std::unique_ptr<BatchStream> Start(BatchStream::Options options) {
  auto stream = BatchStream::Create(std::move(options));
  EXPECT_TRUE(stream.ok()) << stream.status();
  return *std::move(stream);
}

// A batch with its own pixels.
struct Copy {
  Batch batch;
  std::vector<uint8_t> image_BHWC;

  explicit Copy(const Batch& from)
      : batch(from), image_BHWC(from.image_BHWC.begin(), from.image_BHWC.end()) {
    batch.image_BHWC = {};
  }
  auto Tied() const {
    return std::tie(batch.iteration, batch.virtual_rank, batch.epoch, batch.batch_size,
                    batch.image_res, batch.text_length, image_BHWC, batch.input_ids_BT,
                    batch.attention_mask_BT, batch.mlm_input_ids_BT, batch.masked_index_N,
                    batch.masked_label_N, batch.sample_index_B);
  }
  friend bool operator==(const Copy& a, const Copy& b) { return a.Tied() == b.Tied(); }
};

std::vector<Copy> Read(const BatchStream::Options& options, int count) {
  const auto stream = Start(options);
  std::vector<Copy> batches;
  for (int i = 0; i < count; ++i) {
    const auto batch = stream->Next();
    EXPECT_TRUE(batch.ok()) << batch.status();
    if (!batch.ok()) break;
    batches.emplace_back(**batch);
  }
  return batches;
}

TEST(BatchStream, OrdersByIterationThenVirtualRank) {
  const auto batches = Read(TestOptions(), 7);
  ASSERT_EQ(batches.size(), 7u);
  for (int i = 0; i < 7; ++i) {
    EXPECT_EQ(batches[static_cast<size_t>(i)].batch.iteration, i / kVirtualRanks);
    EXPECT_EQ(batches[static_cast<size_t>(i)].batch.virtual_rank, i % kVirtualRanks);
  }
}

TEST(BatchStream, GivesTheSameBatchesOnAnyNumberOfThreadsWithAnyPrefetch) {
  BatchStream::Options options = TestOptions();
  const auto expected = Read(options, 40);
  for (const int threads : {2, 7}) {
    for (const int prefetch : {1, 3, 9}) {
      options.num_threads = threads;
      options.prefetch_batches = prefetch;
      EXPECT_TRUE(Read(options, 40) == expected) << threads << " threads, " << prefetch << " slots";
    }
  }
}

TEST(BatchStream, ResumesAtAnyIteration) {
  BatchStream::Options options = TestOptions();
  options.num_threads = 3;
  constexpr int kIterations = 11;  // of ⌊⌈23 / 3⌉ / 2⌋ = 4 in an epoch
  const auto expected = Read(options, kIterations * kVirtualRanks);
  for (int start = 0; start < kIterations; ++start) {
    options.start_iteration = start;
    const auto resumed = Read(options, (kIterations - start) * kVirtualRanks);
    EXPECT_TRUE(std::equal(resumed.begin(), resumed.end(), expected.begin() + start * kVirtualRanks,
                           expected.end()))
        << "from iteration " << start;
  }
}

TEST(BatchStream, ASliceOfVirtualRanksSeesTheBatchesOfTheWhole) {
  BatchStream::Options options = TestOptions();
  const auto all = Read(options, 4 * kVirtualRanks);
  options.virtual_rank_begin = 1;
  const auto slice = Read(options, 4 * 2);
  for (size_t i = 0; i < slice.size(); ++i) {
    EXPECT_TRUE(slice[i] == all[i / 2 * kVirtualRanks + 1 + i % 2]) << i;
  }
}

TEST(BatchStream, LeavesOutBatchesOfTheFirstIteration) {
  BatchStream::Options options = TestOptions();
  options.start_iteration = 1;
  options.end_iteration = 3;
  const auto all = Read(options, 2 * kVirtualRanks);
  for (const std::vector<int64_t>& first : std::vector<std::vector<int64_t>>{{}, {1}, {0, 2}}) {
    options.first_virtual_ranks = first;
    const auto some = Read(options, static_cast<int>(first.size()) + kVirtualRanks);
    for (size_t i = 0; i < some.size(); ++i) {
      const size_t place =
          i < first.size() ? static_cast<size_t>(first[i]) : kVirtualRanks + i - first.size();
      EXPECT_TRUE(some[i] == all[place]) << i << " of " << first.size();
    }
    const auto stream = Start(options);
    for (size_t i = 0; i < some.size(); ++i) EXPECT_TRUE(stream->Next().ok());
    EXPECT_EQ(stream->Next().status().code(), absl::StatusCode::kOutOfRange);
  }
  options.first_virtual_ranks = {2, 1};
  EXPECT_THAT(std::string(BatchStream::Create(options).status().message()),
              HasSubstr("first_virtual_ranks"));
  options.virtual_rank_end = 2;
  options.first_virtual_ranks = {2};
  EXPECT_THAT(std::string(BatchStream::Create(options).status().message()),
              HasSubstr("first_virtual_ranks"));
}

TEST(BatchStream, AnEpochVisitsEachSampleOnceAndTheNextInAnotherOrder) {
  // 24 samples are 4 steps of 3 × 2 without remainder.
  const auto batches = Read(TestOptions(24), 2 * 4 * kVirtualRanks);
  std::vector<int64_t> order[2];
  for (const Copy& copy : batches) {
    auto& epoch = order[copy.batch.epoch];
    epoch.insert(epoch.end(), copy.batch.sample_index_B.begin(), copy.batch.sample_index_B.end());
  }
  for (const auto& epoch : order) {
    EXPECT_EQ(epoch.size(), 24u);
    EXPECT_EQ(std::set<int64_t>(epoch.begin(), epoch.end()).size(), 24u);
  }
  EXPECT_NE(order[0], order[1]);
}

TEST(BatchStream, PadsToTheLongestCaptionAndMasksByVirtualRank) {
  const BatchStream::Options options = TestOptions();
  const Vocabulary& vocabulary = options.tokenizer->vocabulary();
  std::set<std::vector<int64_t>> masked_places;
  for (const Copy& copy : Read(options, 30)) {
    const Batch& batch = copy.batch;
    const auto width = static_cast<size_t>(batch.text_length);
    ASSERT_EQ(batch.input_ids_BT.size(), kBatchSize * width);
    size_t longest = 0;
    for (size_t b = 0; b < kBatchSize; ++b) {
      EXPECT_EQ(batch.input_ids_BT[b * width], vocabulary.cls_id());
      size_t length = 0;
      for (size_t t = 0; t < width; ++t) {
        const bool attended = batch.attention_mask_BT[b * width + t] == 1;
        EXPECT_EQ(attended, batch.input_ids_BT[b * width + t] != vocabulary.pad_id());
        length += attended;
      }
      longest = std::max(longest, length);
    }
    EXPECT_EQ(longest, width);
    auto restored = batch.mlm_input_ids_BT;
    for (size_t n = 0; n < batch.masked_index_N.size(); ++n) {
      restored[static_cast<size_t>(batch.masked_index_N[n])] = batch.masked_label_N[n];
    }
    EXPECT_EQ(restored, batch.input_ids_BT);
    masked_places.insert(batch.masked_index_N);
  }
  EXPECT_GT(masked_places.size(), 5u);
}

TEST(BatchStream, ASampleIsDrawnAnewEachTimeItIsRead) {
  BatchStream::Options options = TestOptions(24);
  std::set<std::vector<uint8_t>> images;
  std::set<std::vector<int64_t>> captions;
  for (const Copy& copy : Read(options, 20 * 4 * kVirtualRanks)) {
    for (size_t b = 0; b < kBatchSize; ++b) {
      if (copy.batch.sample_index_B[b] != 5) continue;
      const auto pixels = std::span(copy.image_BHWC).subspan(b * kRes * kRes * 3, kRes * kRes * 3);
      images.insert(std::vector(pixels.begin(), pixels.end()));
      const auto ids = std::span(copy.batch.input_ids_BT)
                           .subspan(b * static_cast<size_t>(copy.batch.text_length), 3);
      captions.insert(std::vector(ids.begin(), ids.end()));
    }
  }
  EXPECT_EQ(images.size(), 20u);
  EXPECT_EQ(captions.size(), 3u);
}

TEST(BatchStream, EndsAtTheEndIteration) {
  BatchStream::Options options = TestOptions();
  options.start_iteration = 3;
  options.end_iteration = 5;
  const auto stream = Start(options);
  for (int i = 0; i < 2 * kVirtualRanks; ++i) EXPECT_TRUE(stream->Next().ok());
  EXPECT_EQ(stream->Next().status().code(), absl::StatusCode::kOutOfRange);
}

TEST(BatchStream, RefusesToWaitForASlotTheCallerHolds) {
  BatchStream::Options options = TestOptions();
  options.prefetch_batches = 2;
  const auto stream = Start(options);
  auto first = stream->Next();
  auto second = stream->Next();
  const absl::Status third = stream->Next().status();
  EXPECT_EQ(third.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(third.message()), HasSubstr("prefetch_batches"));
  first = absl::CancelledError("released");
  const auto again = stream->Next();
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ((*again)->virtual_rank, 2);
}

TEST(BatchStream, ReadsNoFurtherAheadThanItHasSlots) {
  BatchStream::Options options = TestOptions();
  options.num_threads = 3;
  options.prefetch_batches = 2;
  std::atomic<int> loads = 0;
  options.image_loader = std::make_shared<FakeImageLoader>([&](const std::string&) {
    ++loads;
    return absl::OkStatus();
  });
  const auto stream = Start(options);
  const auto first = stream->Next();
  const auto second = stream->Next();
  EXPECT_EQ(loads, 2 * kBatchSize);
}

TEST(BatchStream, MeasuresTheTimeItsCallerWaits) {
  BatchStream::Options options = TestOptions();
  std::atomic<bool> door_open = false;
  options.image_loader = std::make_shared<FakeImageLoader>([&](const std::string&) {
    door_open.wait(false);
    return absl::OkStatus();
  });
  // Next asks for the time when it begins to wait and when it has waited.
  std::chrono::steady_clock::time_point now{};
  options.now = [&] {
    door_open = true;
    door_open.notify_all();
    return now += std::chrono::milliseconds(7);
  };
  const auto stream = Start(options);
  EXPECT_EQ(stream->statistics().wait.count(), 0);
  EXPECT_TRUE(stream->Next().ok());
  EXPECT_EQ(stream->statistics().wait, std::chrono::milliseconds(7));
  EXPECT_EQ(stream->statistics().samples, kBatchSize);
}

TEST(BatchStream, StopsWhileAReaderPausesBeforeARetry) {
  BatchStream::Options options = TestOptions();
  options.retry_delays = {std::chrono::hours(1)};
  std::atomic<bool> tried = false;
  options.image_loader = std::make_shared<FakeImageLoader>([&](const std::string&) {
    tried = true;
    tried.notify_all();
    return absl::UnavailableError("stale file handle");
  });
  auto stream = Start(options);
  tried.wait(false);
  stream.reset();  // must not take an hour
}

// Samples "3" and "11" are missing, 7 has an empty caption, 13 none at all, 17 one in Latin-1.
BatchStream::Options WithBadSamples() {
  BatchStream::Options options = TestOptions();
  auto samples = NumberedSamples(kSamples);
  samples[7].captions = {" .,! "};
  samples[13].captions.clear();
  samples[17].captions = {"caf\xE9"};
  options.source = std::make_shared<FakeSource>(samples);
  options.image_loader = std::make_shared<FakeImageLoader>([](const std::string& path) {
    if (path == "3") return absl::NotFoundError("3: no such file");
    if (path == "11") return absl::DataLossError("11: ends early");
    return absl::OkStatus();
  });
  options.max_bad_fraction = 1;
  return options;
}

TEST(BatchStream, SubstitutesBadSamplesAlikeWhereverItStartsAndOnAnyThreads) {
  BatchStream::Options options = WithBadSamples();
  const auto expected = Read(options, 60);
  for (const Copy& copy : expected) {
    for (const int64_t index : copy.batch.sample_index_B) {
      EXPECT_THAT(std::set<int64_t>({3, 7, 11, 13, 17}).count(index), 0u);
    }
  }
  options.num_threads = 7;
  EXPECT_TRUE(Read(options, 60) == expected);
  options.start_iteration = 10;
  const auto resumed = Read(options, 30);
  EXPECT_TRUE(std::equal(resumed.begin(), resumed.end(), expected.begin() + 30));
}

TEST(BatchStream, ReportsEveryBadSampleInOrderWithItsReason) {
  std::vector<std::string> reports[2];
  std::map<std::string, int64_t> counts[2];
  for (size_t run = 0; run < 2; ++run) {
    BatchStream::Options options = WithBadSamples();
    options.num_threads = run == 0 ? 1 : 5;
    options.on_bad_sample = [&](const BadSample& bad) { reports[run].push_back(ToJson(bad)); };
    const auto stream = Start(options);
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(stream->Next().ok());
    counts[run] = stream->statistics().bad_samples;
  }
  EXPECT_EQ(reports[0], reports[1]);
  EXPECT_EQ(counts[0], counts[1]);
  std::set<std::string> reasons;
  int64_t total = 0;
  for (const auto& [reason, count] : counts[0]) {
    reasons.insert(reason);
    total += count;
  }
  EXPECT_THAT(reasons,
              ElementsAre("damaged_image", "empty_caption", "invalid_utf8", "missing_image"));
  EXPECT_EQ(total, static_cast<int64_t>(reports[0].size()));
}

TEST(BatchStream, ReportsASubstituteThatIsBadToo) {
  BatchStream::Options options = TestOptions();
  options.image_loader = std::make_shared<FakeImageLoader>([](const std::string& path) {
    return std::stoi(path) % 2 == 0 ? absl::OkStatus() : absl::DataLossError("odd");
  });
  options.max_bad_fraction = 1;
  std::vector<BadSample> reports;
  options.on_bad_sample = [&](const BadSample& bad) { reports.push_back(bad); };
  Read(options, 24);
  int chains = 0;
  for (size_t i = 0; i + 1 < reports.size(); ++i) {
    if (reports[i].position != reports[i + 1].position) continue;
    EXPECT_EQ(reports[i].substitute_index, reports[i + 1].sample_index);
    EXPECT_EQ(reports[i].substitute, reports[i + 1].image);
    ++chains;
  }
  EXPECT_GT(chains, 0);
}

TEST(BatchStream, EndsWhereNoSubstituteIsUsable) {
  BatchStream::Options options = TestOptions();
  options.image_loader = std::make_shared<FakeImageLoader>(
      [](const std::string&) { return absl::InvalidArgumentError("60000 x 60000 pixels"); });
  options.max_bad_fraction = 1;
  const absl::Status status = Start(options)->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("is bad (invalid_image: 60000 x 60000 pixels)"));
}

TEST(BatchStream, EndsAboveTheAllowedShareOfBadSamplesAndNamesTheFirst) {
  BatchStream::Options options = WithBadSamples();  // 5 of 23
  options.max_bad_fraction = 0.1;
  const auto stream = Start(options);
  absl::Status status;
  while (status.ok()) status = stream->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_bad_fraction = 0.1"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("image"));
  // Not before an epoch (24 positions) was seen.
  EXPECT_GE(stream->statistics().samples, 18);
  EXPECT_EQ(stream->Next().status(), status);
}

TEST(BatchStream, ToleratesTheAllowedShareOfBadSamples) {
  BatchStream::Options options = WithBadSamples();
  options.max_bad_fraction = 0.5;
  EXPECT_EQ(Read(options, 60).size(), 60u);
}

TEST(BatchStream, RetriesTroubleOfTheMachineAndSubstitutesNothing) {
  BatchStream::Options options = TestOptions();
  const auto expected = Read(options, 12);
  std::atomic<int> calls = 0;
  options.image_loader = std::make_shared<FakeImageLoader>([&](const std::string&) {
    return ++calls % 3 != 0 ? absl::UnavailableError("input/output error") : absl::OkStatus();
  });
  options.on_bad_sample = [](const BadSample& bad) { ADD_FAILURE() << ToJson(bad); };
  EXPECT_TRUE(Read(options, 12) == expected);
}

TEST(BatchStream, LastingTroubleOfTheMachineEndsItWhereTheSampleWouldHaveCome) {
  BatchStream::Options options = TestOptions();
  const auto expected = Read(options, 12);
  const int64_t victim = expected[9].batch.sample_index_B[1];
  options.num_threads = 3;
  options.prefetch_batches = 12;
  options.image_loader = std::make_shared<FakeImageLoader>([&](const std::string& path) {
    return path == std::to_string(victim) ? absl::ResourceExhaustedError("too many open files")
                                          : absl::OkStatus();
  });
  const auto stream = Start(options);
  for (size_t i = 0; i < 9; ++i) {
    const auto batch = stream->Next();
    ASSERT_TRUE(batch.ok()) << batch.status();
    EXPECT_TRUE(Copy(**batch) == expected[i]);
  }
  const absl::Status status = stream->Next().status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()),
              HasSubstr("image " + std::to_string(victim) + " in 3 attempts: too many open files"));
  EXPECT_EQ(stream->Next().status(), status);
}

TEST(BatchStream, AnExceptionOfALoaderIsAnErrorNotTheEndOfTheProcess) {
  BatchStream::Options options = TestOptions();
  options.image_loader = std::make_shared<FakeImageLoader>(
      [](const std::string&) -> absl::Status { throw std::bad_alloc(); });
  EXPECT_EQ(Start(options)->Next().status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(BatchStream, NamesTheOptionThatIsImpossible) {
  const auto message = [](const std::function<void(BatchStream::Options&)>& change) {
    BatchStream::Options options = TestOptions();
    change(options);
    const absl::Status status = BatchStream::Create(options).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message([](auto& o) { o.source = nullptr; }), HasSubstr("source"));
  EXPECT_THAT(message([](auto& o) { o.plan.reset(); }), HasSubstr("plan"));
  EXPECT_THAT(message([](auto& o) { o.plan = *EpochPlan::Create({.num_samples = 99}); }),
              HasSubstr("99 samples, the source has 23"));
  EXPECT_THAT(message([](auto& o) { o.virtual_rank_end = 4; }), HasSubstr("[0, 4)"));
  EXPECT_THAT(message([](auto& o) { o.num_threads = 0; }), HasSubstr("num_threads"));
  EXPECT_THAT(message([](auto& o) { o.max_text_length = 1; }), HasSubstr("max_text_length"));
  EXPECT_THAT(message([](auto& o) { o.mlm_probability = 1.5; }), HasSubstr("mlm_probability"));
}

}  // namespace
}  // namespace albef
