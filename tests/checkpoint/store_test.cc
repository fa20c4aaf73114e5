#include "checkpoint/store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "formats/safetensors.h"
#include "tests/checkpoint/test_state.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::UnorderedElementsAre;

constexpr const char* kShard = "shard-00000-of-00001.safetensors";

absl::StatusOr<Manifest> WriteAt(CheckpointStore& store, int64_t step, const TestState& state,
                                 int num_shards = 1) {
  return store.Write(state.tensors, InfoAt(step), {.num_shards = num_shards});
}

// A folder with whole checkpoints 100 and 200 of different states.
struct TwoCheckpoints {
  TwoCheckpoints() {
    EXPECT_TRUE(WriteAt(*store, 100, SmallState(100)).ok());
    EXPECT_TRUE(WriteAt(*store, 200, SmallState(200), 2).ok());
  }

  fs::path newest() const { return directory.path() / "step-0000000200"; }

  // Asserts that 200 is found damaged, kept aside, and 100 used instead.
  void ExpectFallsBack(std::string_view file, std::string_view what) {
    const auto result = store->LoadNewestValid();
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_TRUE(result->checkpoint.has_value());
    EXPECT_EQ(result->checkpoint->manifest().info.counters.iteration, 100);
    EXPECT_EQ(Difference(*result->checkpoint, SmallState(100)), "");
    ASSERT_EQ(result->quarantined.size(), 1);
    EXPECT_THAT(result->quarantined[0], HasSubstr((newest() / file).string()));
    EXPECT_THAT(result->quarantined[0], HasSubstr(std::string(what)));
    EXPECT_THAT(List(directory.path()),
                UnorderedElementsAre("step-0000000100", "step-0000000200.damaged-1"));
  }

  TemporaryDirectory directory;
  std::unique_ptr<CheckpointStore> store = OpenStore(directory.path());
};

void FlipByte(const fs::path& path, size_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(static_cast<std::streamoff>(at));
  const char byte = static_cast<char>(file.get() ^ 0x10);
  file.seekp(static_cast<std::streamoff>(at));
  file.put(byte);
  ASSERT_TRUE(file.good());
}

TEST(CheckpointStore, WhatIsWrittenIsLoaded) {
  for (const int num_shards : {1, 2, 7, 20}) {
    SCOPED_TRACE(num_shards);
    TemporaryDirectory directory;
    const auto store = OpenStore(directory.path() / "run" / "checkpoints");
    const TestState state = LargeState(5);
    const auto written = WriteAt(*store, 1200, state, num_shards);
    ASSERT_TRUE(written.ok()) << written.status();
    EXPECT_THAT(List(store->root()), ElementsAre("step-0000001200"));
    const auto result = store->LoadNewestValid();
    ASSERT_TRUE(result.ok() && result->checkpoint.has_value()) << result.status();
    EXPECT_THAT(result->quarantined, IsEmpty());
    EXPECT_EQ(result->checkpoint->manifest(), *written);
    EXPECT_EQ(written->info, InfoAt(1200));
    EXPECT_EQ(written->files.size(), static_cast<size_t>(num_shards));
    EXPECT_EQ(Difference(*result->checkpoint, state), "");
    EXPECT_EQ(written->state_digest, *StateDigest(state.tensors, 1)) << "shards must not matter";
  }
}

TEST(CheckpointStore, AnEmptyFolderHasNoCheckpointAndThatIsNoError) {
  TemporaryDirectory directory;
  const auto result = OpenStore(directory.path())->LoadNewestValid();
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->checkpoint.has_value());
  EXPECT_THAT(result->quarantined, IsEmpty());
}

TEST(CheckpointStore, EveryFlippedByteOfEveryFileIsFoundAndTheOneBeforeUsed) {
  TwoCheckpoints checkpoints;
  TemporaryDirectory backup;
  fs::copy(checkpoints.newest(), backup.path(), fs::copy_options::recursive);
  size_t num_flipped = 0;
  for (const std::string& name : List(backup.path())) {
    const size_t size = fs::file_size(backup.path() / name);
    // Each byte at the front and at the end, a sample between; manifest_test.cc has every bit.
    for (size_t at = 0; at < size; at += (at < 16 || at + 32 >= size) ? 1 : 31) {
      SCOPED_TRACE(fmt::format("{} byte {}", name, at));
      FlipByte(checkpoints.newest() / name, at);
      checkpoints.ExpectFallsBack(name, name == "manifest.json" ? "" : "XXH3-128");
      if (::testing::Test::HasFailure()) return;
      fs::remove_all(checkpoints.directory.path() / "step-0000000200.damaged-1");
      fs::copy(backup.path(), checkpoints.newest(), fs::copy_options::recursive);
      ++num_flipped;
    }
  }
  EXPECT_GT(num_flipped, 250);
  EXPECT_EQ(checkpoints.store->LoadNewestValid()->checkpoint->manifest().info.counters.iteration,
            200);
}

TEST(CheckpointStore, ATruncatedFileIsDamage) {
  TwoCheckpoints checkpoints;
  const fs::path path = checkpoints.newest() / "shard-00001-of-00002.safetensors";
  fs::resize_file(path, fs::file_size(path) - 1);
  checkpoints.ExpectFallsBack("shard-00001-of-00002.safetensors", "bytes, the manifest says");
}

TEST(CheckpointStore, AnAppendedByteIsDamage) {
  TwoCheckpoints checkpoints;
  const fs::path path = checkpoints.newest() / "shard-00000-of-00002.safetensors";
  fs::resize_file(path, fs::file_size(path) + 1);
  checkpoints.ExpectFallsBack("shard-00000-of-00002.safetensors", "bytes, the manifest says");
}

TEST(CheckpointStore, AMissingFileIsDamage) {
  TwoCheckpoints checkpoints;
  fs::remove(checkpoints.newest() / "shard-00000-of-00002.safetensors");
  checkpoints.ExpectFallsBack("shard-00000-of-00002.safetensors", "is missing");
}

TEST(CheckpointStore, AMissingManifestIsDamage) {
  TwoCheckpoints checkpoints;
  fs::remove(checkpoints.newest() / "manifest.json");
  checkpoints.ExpectFallsBack("manifest.json", "is missing");
}

TEST(CheckpointStore, AFolderInPlaceOfAFileIsDamage) {
  TwoCheckpoints checkpoints;
  fs::remove(checkpoints.newest() / "shard-00000-of-00002.safetensors");
  fs::create_directory(checkpoints.newest() / "shard-00000-of-00002.safetensors");
  checkpoints.ExpectFallsBack("shard-00000-of-00002.safetensors", "not a regular file");
}

TEST(CheckpointStore, AnotherStepsFolderUnderThisNameIsDamage) {
  TwoCheckpoints checkpoints;
  fs::remove_all(checkpoints.newest());
  fs::copy(checkpoints.directory.path() / "step-0000000100", checkpoints.newest());
  checkpoints.ExpectFallsBack("manifest.json", "state of iteration 100");
}

TEST(CheckpointStore, AManifestWhoseDigestIsNotThatOfItsTensorsIsDamage) {
  TwoCheckpoints checkpoints;
  Manifest manifest = *ReadManifest(checkpoints.newest());
  manifest.state_digest.low ^= 1;
  ASSERT_TRUE(
      WriteFileAtomic(checkpoints.newest() / "manifest.json", FormatManifest(manifest)).ok());
  checkpoints.ExpectFallsBack("manifest.json", "state_digest is");
}

TEST(CheckpointStore, DamagedCheckpointsOfOneStepArePutBesideEachOther) {
  TwoCheckpoints checkpoints;
  for (int k = 1; k <= 3; ++k) {
    fs::remove(checkpoints.newest() / "manifest.json");
    ASSERT_TRUE(checkpoints.store->LoadNewestValid().ok());
    EXPECT_TRUE(
        fs::exists(checkpoints.directory.path() / fmt::format("step-0000000200.damaged-{}", k)));
    ASSERT_TRUE(WriteAt(*checkpoints.store, 200, SmallState(200), 2).ok());
  }
}

TEST(CheckpointStore, WhenAllAreDamagedAllAreNamed) {
  TwoCheckpoints checkpoints;
  fs::remove(checkpoints.newest() / "manifest.json");
  FlipByte(checkpoints.directory.path() / "step-0000000100" / kShard, 500);
  const auto result = checkpoints.store->LoadNewestValid();
  ASSERT_TRUE(result.ok());
  EXPECT_FALSE(result->checkpoint.has_value());
  EXPECT_THAT(result->quarantined,
              ElementsAre(HasSubstr("step-0000000200"), HasSubstr("step-0000000100")));
}

TEST(CheckpointStore, ANewerFormatIsAnErrorAndNotQuarantined) {
  TwoCheckpoints checkpoints;
  std::string text = *ReadFile(checkpoints.newest() / "manifest.json");
  text.replace(text.find("\"version\":1"), 11, "\"version\":2");
  const size_t rest = std::string_view(R"({"xxh3_128":")").size() + 32;
  text.replace(rest - 32, 32, ToHex(HashBytes(std::as_bytes(std::span(text).subspan(rest)))));
  ASSERT_TRUE(WriteFileAtomic(checkpoints.newest() / "manifest.json", text).ok());
  const auto result = checkpoints.store->LoadNewestValid();
  EXPECT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(fs::exists(checkpoints.newest()));
}

// Lowers the limit of open files so that no new one can be opened.
class NoMoreDescriptors {
 public:
  NoMoreDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const FileDescriptor next(::open("/dev/null", O_RDONLY));
    const rlimit now{.rlim_cur = static_cast<rlim_t>(next.get()), .rlim_max = before_.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &now);
  }
  ~NoMoreDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_;
};

TEST(CheckpointStore, TroubleWithStorageIsAnErrorAndQuarantinesNothing) {
  TwoCheckpoints checkpoints;
  // Judged once there are descriptors again: UBSan's look at an object needs one.
  const auto [listed, loaded] = [&] {
    const NoMoreDescriptors limit;
    return std::pair(checkpoints.store->LoadNewestValid().status(),
                     checkpoints.store->Load(200).status());
  }();
  EXPECT_EQ(listed.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(loaded.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(loaded.message()), HasSubstr("Too many open files"));
  EXPECT_THAT(List(checkpoints.directory.path()),
              UnorderedElementsAre("step-0000000100", "step-0000000200"));
  EXPECT_EQ(checkpoints.store->LoadNewestValid()->checkpoint->manifest().info.counters.iteration,
            200);
}

TEST(CheckpointStore, ALoadedCheckpointOutlivesItsFolder) {
  TwoCheckpoints checkpoints;
  const auto loaded = checkpoints.store->Load(200);
  fs::remove_all(checkpoints.directory.path());
  EXPECT_EQ(Difference(*loaded, SmallState(200)), "");
}

TEST(LoadedCheckpoint, NamesAKeyItDoesNotHaveAndASizeThatIsNot) {
  TwoCheckpoints checkpoints;
  const auto loaded = LoadedCheckpoint::Open(checkpoints.newest());
  ASSERT_TRUE(loaded.ok());
  std::vector<std::byte> bytes(5);
  EXPECT_EQ(loaded->CopyTensor("none", bytes).code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(loaded->Find("none").status().code(), absl::StatusCode::kNotFound);
  const absl::Status status = loaded->CopyTensor("temp", bytes);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tensor temp has 4 bytes"));
  EXPECT_EQ(LoadedCheckpoint::Open("/nonexistent").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(LoadedCheckpoint::Open("/dev/null").status().code(), absl::StatusCode::kNotFound);
}

// Writes until `room` bytes are used up, then reports what a full disk reports.
WriteFunction WriteUpTo(uint64_t room) {
  // Shared, for the function is copied.
  return [left = std::make_shared<uint64_t>(room)](int fd, std::span<const std::byte> bytes,
                                                   const fs::path& path) -> absl::Status {
    const size_t fitting = std::min<uint64_t>(*left, bytes.size());
    const absl::Status status = WriteAll(fd, bytes.first(fitting), path);
    if (!status.ok()) return status;
    *left -= fitting;
    return fitting == bytes.size() ? absl::OkStatus() : ErrnoStatus(ENOSPC, "write", path);
  };
}

TEST(CheckpointStore, AFullDiskAtAnyByteLeavesWhatWasCommitted) {
  TemporaryDirectory directory;
  const TestState state = SmallState(1);
  const auto store = OpenStore(directory.path());
  ASSERT_TRUE(WriteAt(*store, 100, state).ok());
  uint64_t needed = 0;
  for (const auto& entry : fs::directory_iterator(directory.path() / "step-0000000100")) {
    needed += entry.file_size();
  }
  for (uint64_t room = 0; room < needed; room += 97) {
    const auto full = OpenStore(directory.path(), WriteUpTo(room));
    const auto written = WriteAt(*full, 200, SmallState(2));
    ASSERT_EQ(written.status().code(), absl::StatusCode::kResourceExhausted) << room;
    EXPECT_THAT(std::string(written.status().message()), HasSubstr("No space left on device"));
    ASSERT_THAT(List(directory.path()), ElementsAre("step-0000000100"));
  }
  EXPECT_EQ(Difference(*store->LoadNewestValid()->checkpoint, state), "");
  ASSERT_TRUE(
      WriteAt(*OpenStore(directory.path(), WriteUpTo(2 * needed)), 200, SmallState(2)).ok());
}

// A file system of 4 MiB, where the machine lets us mount one.
class SmallFileSystem {
 public:
  SmallFileSystem() {
    is_mounted_ = ::mount("none", directory_.path().c_str(), "tmpfs", 0, "size=4m") == 0;
  }
  ~SmallFileSystem() {
    if (is_mounted_) ::umount(directory_.path().c_str());
  }
  bool is_mounted() const { return is_mounted_; }
  const fs::path& path() const { return directory_.path(); }

 private:
  TemporaryDirectory directory_;
  bool is_mounted_;
};

TEST(CheckpointStore, ARealFullDiskIsReportedAndTheNextAttemptWorksOnceThereIsRoom) {
  const SmallFileSystem disk;
  if (!disk.is_mounted()) {
    GTEST_SKIP() << "no right to mount a tmpfs; AFullDiskAtAnyByteLeavesWhatWasCommitted covers it";
  }
  const auto store = OpenStore(disk.path() / "checkpoints");
  ASSERT_TRUE(WriteAt(*store, 100, SmallState(1)).ok());
  const auto too_large = WriteAt(*store, 200, LargeState(2));
  EXPECT_EQ(too_large.status().code(), absl::StatusCode::kResourceExhausted) << too_large.status();
  EXPECT_THAT(List(store->root()), ElementsAre("step-0000000100"));
  EXPECT_EQ(Difference(*store->LoadNewestValid()->checkpoint, SmallState(1)), "");
  EXPECT_TRUE(WriteAt(*store, 300, SmallState(3)).ok());
}

TEST(CheckpointStore, CleanUpRemovesDeadRemainsOnly) {
  TwoCheckpoints checkpoints;
  const fs::path root = checkpoints.directory.path();
  for (const char* name : {"step-0000000300.t1.g1.partial", "step-0000000300.t1.g2.partial",
                           "step-0000000050.deleting", "step-0000000060.damaged-1", "notes"}) {
    fs::create_directory(root / name);
    ASSERT_TRUE(WriteFileAtomic(root / name / "shard", "x").ok());
  }
  const PartialId alive{300, 1, 2};
  ASSERT_TRUE(checkpoints.store->CleanUp({&alive, 1}).ok());
  EXPECT_THAT(List(root), UnorderedElementsAre("step-0000000100", "step-0000000200",
                                               "step-0000000300.t1.g2.partial",
                                               "step-0000000060.damaged-1", "notes"));
  ASSERT_TRUE(checkpoints.store->CleanUp().ok());
  EXPECT_THAT(List(root), Not(Contains("step-0000000300.t1.g2.partial")));
}

TEST(CheckpointStore, RetentionKeepsTheVerifiedAndTheNewest) {
  TemporaryDirectory directory;
  CheckpointStore::Options options;
  options.root = directory.path();
  options.retention = {.keep = 2, .keep_every = 40};
  const auto store = *CheckpointStore::Open(options);
  for (int64_t step = 10; step <= 60; step += 10) {
    ASSERT_TRUE(WriteAt(*store, step, SmallState(1)).ok());
  }
  ASSERT_TRUE(store->Load(20).ok());
  const auto deleted = store->ApplyRetention();
  ASSERT_TRUE(deleted.ok());
  EXPECT_THAT(*deleted, ElementsAre(10, 30));
  EXPECT_THAT(*store->CommittedSteps(), ElementsAre(60, 50, 40, 20));
  EXPECT_EQ(List(directory.path()).size(), 4);
}

TEST(CheckpointStore, RefusesOptionsThatCannotBe) {
  TemporaryDirectory directory;
  CheckpointStore::Options options;
  options.root = directory.path();
  options.retention.keep = 1;
  EXPECT_THAT(std::string(CheckpointStore::Open(options).status().message()),
              HasSubstr("checkpoint.keep = 1"));
  options.retention = {.keep = 2, .keep_every = 0};
  EXPECT_THAT(std::string(CheckpointStore::Open(options).status().message()),
              HasSubstr("checkpoint.keep_every = 0"));
  ASSERT_TRUE(WriteFileAtomic(directory.path() / "file", "x").ok());
  options.retention = {};
  options.root = directory.path() / "file";
  EXPECT_FALSE(CheckpointStore::Open(options).ok());
}

TEST(CheckpointStore, RefusesAStateThatDoesNotDescribeItsBytes) {
  TemporaryDirectory directory;
  const auto store = OpenStore(directory.path());
  TestState state = SmallState(1);
  state.tensors[1].tensor.shape = {2};
  EXPECT_THAT(std::string(WriteAt(*store, 1, state).status().message()),
              HasSubstr("visual_encoder.weight has 3264 bytes, which is not shape [2] of F32"));
  EXPECT_EQ(WriteAt(*store, -1, SmallState(1)).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(List(directory.path()), IsEmpty());
}

TEST(CheckpointStore, TheSameStepAgainKeepsTheSameStateAndSetsAnotherAside) {
  TwoCheckpoints checkpoints;
  ASSERT_TRUE(WriteAt(*checkpoints.store, 200, SmallState(200), 1).ok());
  EXPECT_EQ(ReadManifest(checkpoints.newest())->files.size(), 2) << "the first stays";
  EXPECT_THAT(List(checkpoints.directory.path()),
              UnorderedElementsAre("step-0000000100", "step-0000000200"));

  ASSERT_TRUE(WriteAt(*checkpoints.store, 200, SmallState(201)).ok());
  EXPECT_THAT(
      List(checkpoints.directory.path()),
      UnorderedElementsAre("step-0000000100", "step-0000000200", "step-0000000200.replaced-1"));
  EXPECT_EQ(Difference(*checkpoints.store->Load(200), SmallState(201)), "");
}

TEST(CheckpointStore, ShardsOfSeveralWritersAreCommittedByAnother) {
  TemporaryDirectory directory;
  const TestState state = LargeState(9);
  const PartialId id{700, 2, 3};
  const ShardPlan plan = *PlanShards(DescribeState(state.tensors), 4);
  std::vector<ShardReport> reports;
  for (const Shard& shard : plan.shards) {
    const auto worker = OpenStore(directory.path());
    const auto partial = worker->CreatePartial(id);
    ASSERT_TRUE(partial.ok());
    reports.push_back(*WriteShard(*partial, shard, ShardTensors(plan, shard, state.tensors)));
  }
  EXPECT_THAT(List(directory.path()), ElementsAre("step-0000000700.t2.g3.partial"));
  const auto coordinator = OpenStore(directory.path());
  EXPECT_FALSE(coordinator->Commit(id, plan, InfoAt(701), reports).ok());
  const auto manifest = coordinator->Commit(id, plan, InfoAt(700), reports);
  ASSERT_TRUE(manifest.ok()) << manifest.status();
  EXPECT_THAT(List(directory.path()), ElementsAre("step-0000000700"));
  EXPECT_EQ(Difference(*coordinator->LoadNewestValid()->checkpoint, state), "");
}

TEST(CheckpointStore, AReportedShardThatIsNotThereIsNotCommitted) {
  TemporaryDirectory directory;
  const TestState state = SmallState(9);
  const PartialId id{700, 0, 0};
  const auto store = OpenStore(directory.path());
  const ShardPlan plan = *PlanShards(DescribeState(state.tensors), 1);
  const fs::path partial = *store->CreatePartial(id);
  const std::vector<ShardReport> reports = {
      *WriteShard(partial, plan.shards[0], ShardTensors(plan, plan.shards[0], state.tensors))};
  fs::resize_file(partial / kShard, 10);
  EXPECT_EQ(store->Commit(id, plan, InfoAt(700), reports).status().code(),
            absl::StatusCode::kFailedPrecondition);
  fs::remove(partial / kShard);
  EXPECT_EQ(store->Commit(id, plan, InfoAt(700), reports).status().code(),
            absl::StatusCode::kNotFound);
  EXPECT_THAT(*store->CommittedSteps(), IsEmpty());
}

}  // namespace
}  // namespace albef
