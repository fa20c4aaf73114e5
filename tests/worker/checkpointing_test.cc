#include "worker/checkpointing.h"

#include <gtest/gtest.h>

#include <memory>
#include <vector>

#include "common/file.h"
#include "model/initialization.h"
#include "tests/model/tiny_model.h"

namespace albef {
namespace {

std::unique_ptr<TrainState> NewState() {
  Albef model(TinyModelOptions(/*queue_size=*/20));
  InitializeRandomly(*model, 3);
  model->train();
  return std::make_unique<TrainState>(model, TrainStateOptions());
}

// What each of several workers reports of its shard, states[r] being that of rank r.
std::vector<v1::ShardWritten> WriteShards(const std::vector<std::unique_ptr<TrainState>>& states) {
  const TemporaryDirectory folder;
  const auto store = *CheckpointStore::Open({.root = folder.path(), .retention = {}});
  std::vector<v1::ShardWritten> reports;
  for (size_t rank = 0; rank < states.size(); ++rank) {
    ShardWriter writer(store.get(),
                       [&](const v1::ShardWritten& written) { reports.push_back(written); });
    writer.Take(*states[rank], {},
                {.term = 1,
                 .generation = 1,
                 .shard_index = static_cast<int>(rank),
                 .num_shards = static_cast<int>(states.size())},
                "test");
    writer.Wait();
  }
  for (const v1::ShardWritten& report : reports) EXPECT_EQ(report.error(), "");
  return reports;
}

std::vector<std::unique_ptr<TrainState>> NewStates(int count) {
  std::vector<std::unique_ptr<TrainState>> states;
  for (int i = 0; i < count; ++i) states.push_back(NewState());
  return states;
}

TEST(ShardWriter, TheRankBeforeVouchesForEveryShard) {
  for (const int count : {2, 3}) {
    const std::vector<v1::ShardWritten> reports = WriteShards(NewStates(count));
    ASSERT_EQ(reports.size(), static_cast<size_t>(count));
    for (size_t rank = 0; rank < reports.size(); ++rank) {
      EXPECT_EQ(reports[rank].next_block_hashes(),
                reports[(rank + 1) % reports.size()].block_hashes());
      EXPECT_NE(reports[rank].next_block_hashes(), "");
    }
  }
  EXPECT_EQ(WriteShards(NewStates(1))[0].next_block_hashes(), "");
}

TEST(ShardWriter, ABitThatOneWorkerHasAloneShowsInItsShard) {
  const auto states = NewStates(3);
  for (const StateEntry& entry : states[1]->State()) {
    if (entry.key.starts_with("counters.")) continue;
    static_cast<unsigned char*>(entry.tensor.data_ptr())[0] ^= 1U;
  }
  const std::vector<v1::ShardWritten> reports = WriteShards(states);
  EXPECT_NE(reports[0].next_block_hashes(), reports[1].block_hashes());
  EXPECT_NE(reports[1].next_block_hashes(), reports[2].block_hashes());
  EXPECT_EQ(reports[2].next_block_hashes(), reports[0].block_hashes());
}

}  // namespace
}  // namespace albef
