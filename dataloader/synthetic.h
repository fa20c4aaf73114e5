// Writes the synthetic image-caption dataset: train.json and test.json in ALBEF's annotation
// format, vocab.txt, and JPEG files in images/.
//
// Every byte is a function of the options alone, threads excepted. Each training image has five
// captions, each test image one; no scene of the test split occurs in training or twice in the test
// split, so neither do its captions.
#ifndef ALBEF_DATALOADER_SYNTHETIC_H_
#define ALBEF_DATALOADER_SYNTHETIC_H_

#include <cstdint>
#include <filesystem>
#include <optional>

#include "absl/status/statusor.h"

namespace albef {

struct SyntheticOptions {
  int64_t pairs = 0;  // training images
  // Unset: a tenth of `pairs`, at least 10 and at most 1000.
  std::optional<int64_t> test_pairs;
  uint64_t seed = 0;
  int size_px = 128;  // of a typical side; sides differ
  int threads = 0;    // 0: one per core
};

struct SyntheticDataset {
  int64_t train_pairs = 0;
  int64_t test_pairs = 0;
  int64_t vocabulary_size = 0;
  bool already_there = false;
};

// Fills `directory`, which must not exist, be empty, hold exactly this dataset (nothing is written
// then), or hold what an interrupted run of this function left (it starts afresh). Until the
// function is done the folder holds a file synthetic.incomplete and no train.json.
//
// INVALID_ARGUMENT: options out of range. FAILED_PRECONDITION: the folder holds something else, or
// another process is writing it. Errors of storage as common/file.h says.
absl::StatusOr<SyntheticDataset> WriteSyntheticDataset(const std::filesystem::path& directory,
                                                       const SyntheticOptions& options);

}  // namespace albef

#endif  // ALBEF_DATALOADER_SYNTHETIC_H_
