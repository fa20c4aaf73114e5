#include "checkpoint/shards.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "common/random.h"
#include "formats/safetensors.h"
#include "tests/checkpoint/test_state.h"

namespace albef {
namespace {

using ::testing::HasSubstr;

std::vector<TensorInfo> RandomTensors(uint64_t seed) {
  RandomStream random(seed, RandomPurpose::kSynthetic, 0);
  constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kI64, DType::kBool, DType::kF64};
  std::vector<TensorInfo> tensors(random.Below(12));
  for (size_t i = 0; i < tensors.size(); ++i) {
    tensors[i].name = fmt::format("t{}", i);
    tensors[i].dtype = kTypes[random.Below(std::size(kTypes))];
    switch (random.Below(5)) {
      case 0:
        break;  // a scalar
      case 1:
        tensors[i].shape = {static_cast<int64_t>(random.Below(5)), 0};
        break;
      case 2:
        tensors[i].shape = {static_cast<int64_t>(random.Below(3000))};
        break;
      case 3:
        tensors[i].shape = {static_cast<int64_t>(random.Below(5)) << 20};
        break;
      default:
        tensors[i].shape = {static_cast<int64_t>(random.Below(40'000'000)), 3};
    }
  }
  return tensors;
}

TEST(PlanShards, CoversEveryByteOnceWithCutsOnBlockBorders) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    const std::vector<TensorInfo> tensors = RandomTensors(seed);
    uint64_t total = 0;
    for (const TensorInfo& tensor : tensors) total += *ByteSize(tensor.dtype, tensor.shape);
    for (int num_shards = 1; num_shards <= 32; ++num_shards) {
      SCOPED_TRACE(fmt::format("seed {} shards {}", seed, num_shards));
      const auto plan = PlanShards(tensors, num_shards);
      ASSERT_TRUE(plan.ok());
      ASSERT_EQ(plan->shards.size(), static_cast<size_t>(num_shards));
      std::vector<uint64_t> covered(tensors.size());
      std::vector<int> num_entries(tensors.size());
      for (const Shard& shard : plan->shards) {
        uint64_t data_bytes = 0;
        size_t element_size = 8;
        for (const ShardEntry& entry : shard.entries) {
          const TensorInfo& tensor = tensors[entry.tensor_index];
          EXPECT_EQ(entry.begin, covered[entry.tensor_index]);
          EXPECT_EQ(entry.begin % kDigestBlockBytes, 0);
          EXPECT_TRUE(entry.end % kDigestBlockBytes == 0 ||
                      entry.end == *ByteSize(tensor.dtype, tensor.shape));
          EXPECT_LE(ElementSize(tensor.dtype), element_size) << "later ones would be unaligned";
          element_size = ElementSize(tensor.dtype);
          covered[entry.tensor_index] = entry.end;
          ++num_entries[entry.tensor_index];
          data_bytes += entry.end - entry.begin;
        }
        EXPECT_LE(data_bytes, total / static_cast<uint64_t>(num_shards) + kDigestBlockBytes);
      }
      for (size_t i = 0; i < tensors.size(); ++i) {
        const uint64_t num_bytes = *ByteSize(tensors[i].dtype, tensors[i].shape);
        EXPECT_EQ(covered[i], num_bytes);
        EXPECT_GE(num_entries[i], 1);
        if (num_bytes == 0) {
          EXPECT_EQ(num_entries[i], 1);
        }
      }
    }
  }
}

TEST(PlanShards, RefusesWhatCannotBeSaved) {
  const auto message = [](std::vector<TensorInfo> tensors, int num_shards) {
    return std::string(PlanShards(std::move(tensors), num_shards).status().message());
  };
  EXPECT_THAT(message({}, 0), HasSubstr("not in [1, 99999]"));
  EXPECT_THAT(message({}, 100'000), HasSubstr("not in [1, 99999]"));
  EXPECT_THAT(message({{"a#0", DType::kF32, {}}}, 1), HasSubstr("a#0"));
  EXPECT_THAT(message({{"", DType::kF32, {}}}, 1), HasSubstr("cannot be saved"));
  EXPECT_THAT(message({{"ä", DType::kF32, {}}}, 1), HasSubstr("cannot be saved"));
  EXPECT_THAT(message({{"a", DType::kF32, {}}, {"a", DType::kI64, {}}}, 1), HasSubstr("twice"));
  EXPECT_THAT(message({{"a", DType::kF32, {-1}}}, 1), HasSubstr("impossible shape [-1]"));
}

TEST(WriteShard, MakesSafetensorsFilesOfWholeTensorsAndNamedSlices) {
  TemporaryDirectory directory;
  const TestState state = LargeState(11);
  const ShardPlan plan = *PlanShards(DescribeState(state.tensors), 5);
  std::map<std::string, std::string> found;  // bytes per key, slices joined
  for (const Shard& shard : plan.shards) {
    const auto report =
        WriteShard(directory.path(), shard, ShardTensors(plan, shard, state.tensors));
    ASSERT_TRUE(report.ok()) << report.status();
    const auto content = *ReadFile(directory.path() / shard.file_name);
    EXPECT_EQ(report->num_bytes, content.size());
    EXPECT_EQ(report->hash, HashBytes(std::as_bytes(std::span(content))));
    const auto file = SafetensorsFile::Open(directory.path() / shard.file_name);
    ASSERT_TRUE(file.ok()) << file.status();
    for (const auto& [name, tensor] : file->tensors()) {
      const size_t mark = name.find('#');
      std::string& bytes = found[name.substr(0, mark)];
      if (mark != std::string::npos) {
        EXPECT_EQ(name.substr(mark + 1), std::to_string(bytes.size()));
      }
      bytes.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    }
  }
  EXPECT_EQ(plan.shards[2].file_name, "shard-00002-of-00005.safetensors");
  ASSERT_EQ(found.size(), state.tensors.size());
  for (const auto& [name, tensor] : state.tensors) {
    const auto bytes = std::as_bytes(std::span(found[name]));
    EXPECT_TRUE(std::ranges::equal(bytes, tensor.bytes)) << name;
  }
}

class AssembleManifestTest : public ::testing::Test {
 protected:
  AssembleManifestTest() {
    for (const Shard& shard : plan_.shards) {
      reports_.push_back(
          *WriteShard(directory_.path(), shard, ShardTensors(plan_, shard, state_.tensors)));
    }
  }

  std::string Error() const {
    const auto manifest = AssembleManifest(plan_, InfoAt(5), reports_);
    return manifest.ok() ? "" : std::string(manifest.status().message());
  }

  TemporaryDirectory directory_;
  TestState state_ = LargeState(11);
  ShardPlan plan_ = *PlanShards(DescribeState(state_.tensors), 3);
  std::vector<ShardReport> reports_;
};

TEST_F(AssembleManifestTest, TakesReportsInAnyOrderAndHasTheDigestOfTheState) {
  const Manifest expected = *AssembleManifest(plan_, InfoAt(5), reports_);
  std::swap(reports_[0], reports_[2]);
  EXPECT_EQ(*AssembleManifest(plan_, InfoAt(5), reports_), expected);
  EXPECT_EQ(expected.state_digest, *StateDigest(state_.tensors, 1));
}

TEST_F(AssembleManifestTest, RefusesAMissingShard) {
  reports_.pop_back();
  EXPECT_THAT(Error(), HasSubstr("shard-00002-of-00003.safetensors is not reported"));
}

TEST_F(AssembleManifestTest, RefusesAShardReportedTwice) {
  reports_.push_back(reports_[1]);
  EXPECT_THAT(Error(), HasSubstr("shard-00001-of-00003.safetensors is reported twice"));
}

TEST_F(AssembleManifestTest, RefusesAForeignFile) {
  reports_.push_back(reports_[1]);
  reports_.back().file_name = "other";
  EXPECT_THAT(Error(), HasSubstr("4 files are reported"));
}

TEST_F(AssembleManifestTest, RefusesSizesAndHashesThatDoNotFitThePlan) {
  ++reports_[1].num_bytes;
  EXPECT_THAT(Error(), HasSubstr("shard-00001-of-00003.safetensors is reported with"));
  --reports_[1].num_bytes;
  reports_[1].block_hashes.pop_back();
  EXPECT_THAT(Error(), HasSubstr("shard-00001-of-00003.safetensors is reported with"));
}

}  // namespace
}  // namespace albef
