#include "checkpoint/background_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "tests/checkpoint/test_state.h"

namespace albef {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

CheckpointSnapshot SnapshotOf(const TestState& state, int64_t step) {
  return {.storage = state.storage,
          .tensors = state.tensors,
          .info = InfoAt(step),
          .write_options = {}};
}

// Storage that holds every write back until it is opened.
class Gate {
 public:
  WriteFunction Write() {
    return [this](int fd, std::span<const std::byte> bytes, const std::filesystem::path& path) {
      reached_.store(true);
      reached_.notify_all();
      opened_.wait(false);
      return WriteAll(fd, bytes, path);
    };
  }
  void WaitUntilReached() { reached_.wait(false); }
  void Open() {
    opened_.store(true);
    opened_.notify_all();
  }

 private:
  std::atomic<bool> reached_ = false;
  std::atomic<bool> opened_ = false;
};

TEST(BackgroundCheckpointWriter, WritesVerifiesAndAppliesRetention) {
  TemporaryDirectory directory;
  CheckpointStore::Options options;
  options.root = directory.path();
  options.retention.keep = 2;
  const auto store = *CheckpointStore::Open(options);
  std::vector<CheckpointOutcome> outcomes;
  {
    BackgroundCheckpointWriter writer(store.get());
    for (int64_t step = 1; step <= 5; ++step) {
      writer.Submit(SnapshotOf(SmallState(static_cast<uint64_t>(step)), step),
                    [&](const CheckpointOutcome& outcome) { outcomes.push_back(outcome); });
    }
    writer.Wait();
    EXPECT_FALSE(writer.IsBusy());
  }
  ASSERT_EQ(outcomes.size(), 5);
  for (const CheckpointOutcome& outcome : outcomes) {
    ASSERT_TRUE(outcome.manifest.ok()) << outcome.manifest.status();
    EXPECT_EQ(outcome.manifest->info, InfoAt(outcome.iteration));
    ASSERT_TRUE(outcome.deleted.ok());
  }
  EXPECT_THAT(*outcomes[1].deleted, IsEmpty());
  EXPECT_THAT(*outcomes[4].deleted, ElementsAre(3));
  EXPECT_THAT(*store->CommittedSteps(), ElementsAre(5, 4));
  EXPECT_EQ(Difference(*store->LoadNewestValid()->checkpoint, SmallState(5)), "");
}

TEST(BackgroundCheckpointWriter, SubmitReturnsWhileTheWriteIsUnderWayAndTheNextOneWaits) {
  TemporaryDirectory directory;
  Gate gate;
  const auto store = OpenStore(directory.path(), gate.Write());
  std::atomic<int> num_done = 0;
  const auto count = [&](const CheckpointOutcome& outcome) {
    EXPECT_TRUE(outcome.manifest.ok());
    ++num_done;
  };
  BackgroundCheckpointWriter writer(store.get());
  writer.Submit(SnapshotOf(SmallState(1), 1), count);
  gate.WaitUntilReached();
  EXPECT_TRUE(writer.IsBusy());
  EXPECT_EQ(num_done, 0);
  int done_when_second_returned = -1;
  std::thread second([&] {
    writer.Submit(SnapshotOf(SmallState(2), 2), count);
    done_when_second_returned = num_done;
  });
  gate.Open();
  second.join();
  EXPECT_GE(done_when_second_returned, 1) << "two were under way at once";
  writer.Wait();
  EXPECT_EQ(num_done, 2);
}

TEST(BackgroundCheckpointWriter, ReleasesTheSnapshotBeforeItReports) {
  TemporaryDirectory directory;
  const auto store = OpenStore(directory.path());
  TestState state = SmallState(1);
  const std::weak_ptr<const void> storage = state.storage;
  BackgroundCheckpointWriter writer(store.get());
  CheckpointSnapshot snapshot = SnapshotOf(state, 1);
  state.storage.reset();
  std::atomic<bool> was_released = false;
  writer.Submit(std::move(snapshot),
                [&](const CheckpointOutcome&) { was_released = storage.expired(); });
  writer.Wait();
  EXPECT_TRUE(was_released);
}

TEST(BackgroundCheckpointWriter, AFailureIsReportedAndTheNextAttemptSucceeds) {
  TemporaryDirectory directory;
  std::atomic<bool> is_full = true;
  const auto store = OpenStore(directory.path(), [&](int fd, std::span<const std::byte> bytes,
                                                     const std::filesystem::path& path) {
    return is_full ? ErrnoStatus(ENOSPC, "write", path) : WriteAll(fd, bytes, path);
  });
  std::vector<absl::StatusCode> codes;
  BackgroundCheckpointWriter writer(store.get());
  const auto record = [&](const CheckpointOutcome& outcome) {
    codes.push_back(outcome.manifest.status().code());
  };
  writer.Submit(SnapshotOf(SmallState(1), 1), record);
  writer.Wait();
  EXPECT_THAT(List(directory.path()), IsEmpty());
  is_full = false;
  writer.Submit(SnapshotOf(SmallState(2), 2), record);
  writer.Wait();
  EXPECT_THAT(codes, ElementsAre(absl::StatusCode::kResourceExhausted, absl::StatusCode::kOk));
}

TEST(BackgroundCheckpointWriter, StorageThatGarblesIsFoundAtOnce) {
  TemporaryDirectory directory;
  const auto store = OpenStore(directory.path(), [](int fd, std::span<const std::byte> bytes,
                                                    const std::filesystem::path& path) {
    std::vector<std::byte> garbled(bytes.begin(), bytes.end());
    if (path.extension() == ".safetensors") garbled.back() ^= std::byte{1};
    return WriteAll(fd, garbled, path);
  });
  absl::Status status;
  BackgroundCheckpointWriter writer(store.get());
  writer.Submit(SnapshotOf(SmallState(1), 1),
                [&](const CheckpointOutcome& outcome) { status = outcome.manifest.status(); });
  writer.Wait();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(List(directory.path()), ElementsAre("step-0000000001.damaged-1"));
}

TEST(BackgroundCheckpointWriter, EndingItFinishesWhatWasSubmitted) {
  TemporaryDirectory directory;
  const auto store = OpenStore(directory.path());
  std::atomic<bool> was_called = false;
  {
    BackgroundCheckpointWriter writer(store.get());
    writer.Submit(SnapshotOf(LargeState(1), 1),
                  [&](const CheckpointOutcome& outcome) { was_called = outcome.manifest.ok(); });
  }
  EXPECT_TRUE(was_called);
  EXPECT_THAT(*store->CommittedSteps(), ElementsAre(1));
}

}  // namespace
}  // namespace albef
