// States for the tests: tensors that own their bytes.
#ifndef ALBEF_TESTS_CHECKPOINT_TEST_STATE_H_
#define ALBEF_TESTS_CHECKPOINT_TEST_STATE_H_

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/loaded_checkpoint.h"
#include "checkpoint/store.h"
#include "common/random.h"
#include "formats/tensor.h"

namespace albef {

struct TestState {
  std::shared_ptr<std::vector<std::vector<std::byte>>> storage =
      std::make_shared<std::vector<std::vector<std::byte>>>();
  std::vector<NamedTensor> tensors;

  // Fills a tensor with random bytes.
  void Add(std::string name, DType dtype, std::vector<int64_t> shape, uint64_t seed) {
    std::vector<std::byte> bytes(*ByteSize(dtype, shape));
    RandomStream random(seed, RandomPurpose::kSynthetic, tensors.size());
    for (size_t i = 0; i < bytes.size(); i += 8) {
      const uint64_t word = random.Next64();
      std::memcpy(bytes.data() + i, &word, std::min<size_t>(8, bytes.size() - i));
    }
    storage->push_back(std::move(bytes));
    tensors.push_back({std::move(name), {dtype, std::move(shape), storage->back()}});
  }
};

// A small state of every kind of tensor that matters: scalar, empty, odd sizes, narrow types.
inline TestState SmallState(uint64_t seed) {
  TestState state;
  state.Add("temp", DType::kF32, {}, seed);
  state.Add("visual_encoder.weight", DType::kF32, {48, 17}, seed);
  state.Add("queue_ptr", DType::kI64, {1}, seed);
  state.Add("mask", DType::kBool, {3}, seed);
  state.Add("nothing", DType::kF32, {0, 4}, seed);
  state.Add("shadow", DType::kBF16, {5, 5}, seed);
  state.Add("counters", DType::kI64, {3}, seed);
  return state;
}

// As above, with tensors of several blocks.
inline TestState LargeState(uint64_t seed) {
  TestState state = SmallState(seed);
  state.Add("image_queue", DType::kF32, {256, 3000}, seed);           // 2.93 blocks
  state.Add("bytes", DType::kU8, {(2 << 20) + 1}, seed);              // 2 blocks and a byte
  state.Add("exactly", DType::kF64, {1 << 17}, seed);                 // 1 block
  state.Add("word_embeddings", DType::kBF16, {(3 << 19) + 7}, seed);  // 3 blocks and 14 bytes
  return state;
}

inline CheckpointInfo InfoAt(int64_t iteration) {
  CheckpointInfo info;
  info.counters = {.iteration = iteration,
                   .updates = iteration - iteration / 10,
                   .ema_updates = iteration,
                   .epoch = iteration / 100};
  info.config_digest = "c0ffee";
  info.virtual_ranks = 4;
  info.seed = 0xFEDC'BA98'7654'3210;
  info.facts = {{"libtorch", "2.11.0"}, {"instruction set", "AVX512 \"quoted\" é"}};
  return info;
}

inline std::unique_ptr<CheckpointStore> OpenStore(const std::filesystem::path& root,
                                                  WriteFunction write = WriteAll) {
  CheckpointStore::Options options;
  options.root = root;
  options.num_threads = 2;
  options.write = std::move(write);
  return *CheckpointStore::Open(std::move(options));
}

// What differs between a checkpoint and a state; empty when nothing does.
inline std::string Difference(const LoadedCheckpoint& loaded, const TestState& state) {
  if (loaded.manifest().tensors.size() != state.tensors.size()) return "number of tensors";
  for (const auto& [name, tensor] : state.tensors) {
    const auto info = loaded.Find(name);
    if (!info.ok() || info->dtype != tensor.dtype || info->shape != tensor.shape) return name;
    std::vector<std::byte> bytes(tensor.bytes.size());
    if (!loaded.CopyTensor(name, bytes).ok()) return name + " cannot be copied";
    if (!std::equal(bytes.begin(), bytes.end(), tensor.bytes.begin())) return name + " content";
  }
  return "";
}

// Names in a folder.
inline std::vector<std::string> List(const std::filesystem::path& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

}  // namespace albef

#endif  // ALBEF_TESTS_CHECKPOINT_TEST_STATE_H_
