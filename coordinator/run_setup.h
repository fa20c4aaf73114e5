// Everything that has to be right before the first step: the run directory is held, the
// configuration is complete and fits the run's, data is found, the decision how to start is made.
#ifndef ALBEF_COORDINATOR_RUN_SETUP_H_
#define ALBEF_COORDINATOR_RUN_SETUP_H_

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "checkpoint/store.h"
#include "common/config.h"
#include "coordinator/run_directory.h"
#include "dataloader/dataset.h"
#include "dataloader/sample_order.h"

namespace albef {

// What a command line asks for.
struct RunRequest {
  RunConfig config;
  std::filesystem::path run_dir;
  std::string device = "cpu";
  ResumeRequest resume;
  // This process holds the run directory already, or has the right to go on without its lock.
  bool is_directory_held = false;
  // Of the first start; they fix what the configuration leaves open for the whole run.
  int num_workers = 1;           // virtual_ranks
  int num_workers_per_host = 1;  // threads_per_worker: cores ÷ these
};

// The keys that change the result, with both values; empty: there are none.
std::string DescribeDifferences(const RunConfig& before, const RunConfig& after);

struct RunSetup {
  // Complete: virtual_ranks, threads_per_worker, deterministic, reduction, vocab_size.
  RunConfig config;
  std::filesystem::path run_dir;
  std::optional<RunDirectoryLock> lock;  // of the process that prepared the run
  std::unique_ptr<CheckpointStore> store;
  Dataset dataset;
  EpochPlan plan;
  int64_t target_step;
  StartAction action;
  ResumeRequest resume;
  std::optional<Outcome> finished;  // how the attempt before ended

  // Errors are the user's to mend, but for UNAVAILABLE and RESOURCE_EXHAUSTED from storage. Nothing
  // in the run directory has changed then, except that the folder and its lock exist.
  static absl::StatusOr<RunSetup> Prepare(RunRequest request);

  // The same run as seen by a worker: another process prepared it, decided `action` and wrote
  // RUN_DIR/config.yaml.
  static absl::StatusOr<RunSetup> Join(std::filesystem::path run_dir, StartAction action,
                                       ResumeRequest resume);

  // What starting from nothing but the run directory means now: `action`, unless checkpoints have
  // been committed since it was decided.
  absl::StatusOr<StartAction> NextAction() const;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_SETUP_H_
