// Everything that has to be right before the first step: the run directory is held, the
// configuration is complete and fits the run's, data is found, the decision how to start is made.
#ifndef ALBEF_WORKER_RUN_SETUP_H_
#define ALBEF_WORKER_RUN_SETUP_H_

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "checkpoint/store.h"
#include "common/config.h"
#include "coordinator/recorder.h"
#include "dataloader/dataset.h"
#include "dataloader/sample_order.h"
#include "worker/run_directory.h"
#include "worker/trainer.h"

namespace albef {

struct RunSetup {
  RunConfig config;  // complete: virtual_ranks, threads_per_worker, deterministic, vocab_size
  std::filesystem::path run_dir;
  RunDirectoryLock lock;
  std::unique_ptr<CheckpointStore> store;
  Dataset dataset;
  EpochPlan plan;
  int64_t target_step;
  StartAction action;
  ResumeRequest resume;

  // Errors are the user's to mend, but for UNAVAILABLE and RESOURCE_EXHAUSTED from storage. Nothing
  // in the run directory has changed then, except that the folder and its lock exist.
  static absl::StatusOr<RunSetup> Prepare(TrainerOptions options);
};

}  // namespace albef

#endif  // ALBEF_WORKER_RUN_SETUP_H_
