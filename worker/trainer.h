// The process that trains: told by its supervisor, connected with the other trainers (design §2).
//
// It takes part in one generation after the other. proto/control.proto says what it is told and
// what it answers; the training state stays in memory from generation to generation.
#ifndef ALBEF_WORKER_TRAINER_H_
#define ALBEF_WORKER_TRAINER_H_

#include <cstdint>
#include <filesystem>
#include <string>

#include "common/exit_code.h"
#include "common/file.h"
#include "coordinator/run_directory.h"

namespace albef {

struct TrainerOptions {
  FileDescriptor control;  // to the supervisor
  std::filesystem::path run_dir;
  std::string run_id;
  std::string token;  // of the run
  std::string device = "cpu";
  int64_t local_rank = 0;  // which chooses the GPU
  StartAction action = StartAction::kNew;
  std::filesystem::path import_path;
  int64_t incarnation = 0;
  std::string mesh_host = "127.0.0.1";  // to listen on for other trainers
};

// Trains until the run is over or the supervisor is gone.
ExitCode RunTrainer(TrainerOptions options);

}  // namespace albef

#endif  // ALBEF_WORKER_TRAINER_H_
