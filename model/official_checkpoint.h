// Training checkpoints of the authors' code, checkpoint_XX.pth: {model, optimizer, lr_scheduler,
// config, epoch} (spec §6).
//
// Their optimizer state is indexed by position in [no decay | decay], each in named order: the
// order of our layout. They save after an optimizer step whose forward pass moved the teacher, so
// an imported state has ema_updates = updates, like ours at the end of a committed step.
#ifndef ALBEF_MODEL_OFFICIAL_CHECKPOINT_H_
#define ALBEF_MODEL_OFFICIAL_CHECKPOINT_H_

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/config.h"
#include "model/train_state.h"

namespace albef {

struct OfficialImportOptions {
  // Of the run that goes on; it starts at the first step of epoch + 1. Unset: that of the run that
  // wrote the file, so that iteration equals updates.
  std::optional<int64_t> steps_per_epoch;
};

struct OfficialProgress {
  int64_t epoch = 0;  // the last complete one
  int64_t updates = 0;
  std::vector<std::string> unknown_classes;  // in the file, not understood and not needed
};

// Takes over weights, teacher, queues, moments and counters, in the zip format or the older one,
// with step counters as integers or tensors. What does not fit is INVALID_ARGUMENT or
// FAILED_PRECONDITION that names file, place and remedy; then nothing has changed.
absl::StatusOr<OfficialProgress> ImportOfficialCheckpoint(
    const std::filesystem::path& path, TrainState& state,
    const OfficialImportOptions& options = {});

struct OfficialExportOptions {
  RunConfig config;    // what their `config` and `lr_scheduler` are filled from
  double lr = 0;       // of the last optimizer step
  int64_t epoch = -1;  // the last complete one, −1 for none
};

// Writes a file that their code resumes from. All floating-point tensors become fp32, tied names
// share one storage, step counters are integers, which every PyTorch version accepts. A state from
// the middle of an epoch is labelled with the last complete one (−1 in the first): their code,
// which can only start whole epochs, repeats the rest.
absl::Status ExportOfficialCheckpoint(const std::filesystem::path& path, const TrainState& state,
                                      const OfficialExportOptions& options);

}  // namespace albef

#endif  // ALBEF_MODEL_OFFICIAL_CHECKPOINT_H_
