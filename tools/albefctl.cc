#include "tools/albefctl.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "common/exit_code.h"
#include "common/status_macros.h"
#include "tools/finished_run.h"
#include "tools/operator_json.h"
#include "tools/operator_text.h"

namespace albef {
namespace {

constexpr std::string_view kFromFiles = "the files of the run; it has ended";

void WriteTo(std::FILE* file, std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), file);
  std::fflush(file);
}

std::string Answer(const v1::RunStatus& status, std::string_view source, const CtlOptions& options,
                   const CtlOutput& output) {
  if (options.json) return StatusJson(status);
  const TextOptions text{.use_color = output.use_color};
  return options.command == CtlCommand::kStatus
             ? FormatStatus(status, source, output.unix_seconds(), text)
             : FormatBrief(status, text);
}

std::string Answer(const v1::ListCheckpointsResponse& checkpoints, const CtlOptions& options,
                   const CtlOutput& output) {
  return options.json ? CheckpointsJson(checkpoints)
                      : FormatCheckpoints(checkpoints, output.unix_seconds(), {});
}

absl::StatusOr<std::string> Ask(OperatorClient& client, const CtlOptions& options,
                                const CtlOutput& output) {
  absl::StatusOr<v1::RunStatus> status;
  switch (options.command) {
    case CtlCommand::kWorkers: {
      ASSIGN_OR_RETURN(const v1::ListWorkersResponse workers, client.ListWorkers());
      return options.json ? WorkersJson(workers)
                          : FormatWorkers(workers, {.use_color = output.use_color});
    }
    case CtlCommand::kCheckpoints: {
      ASSIGN_OR_RETURN(const v1::ListCheckpointsResponse checkpoints, client.ListCheckpoints());
      return Answer(checkpoints, options, output);
    }
    case CtlCommand::kCheckpoint: {
      ASSIGN_OR_RETURN(const v1::Checkpoint checkpoint, client.TakeCheckpoint());
      return options.json ? CheckpointJson(checkpoint) : checkpoint.path() + "\n";
    }
    case CtlCommand::kStatus:
    case CtlCommand::kWatch:
      status = client.GetStatus();
      break;
    case CtlCommand::kPause:
      status = client.Pause();
      break;
    case CtlCommand::kResume:
      status = client.Resume();
      break;
    case CtlCommand::kDrain:
      status = client.Drain(options.worker);
      break;
    case CtlCommand::kStop:
      status = client.Stop();
      break;
  }
  RETURN_IF_ERROR(status.status());
  return Answer(*status, client.address(), options, output);
}

// What the files of a run that has ended can answer.
std::optional<std::string> AskFiles(const CtlOptions& options, const CtlOutput& output) {
  if (!options.location.run_dir.has_value()) return std::nullopt;
  const auto finished = ReadFinishedRun(*options.location.run_dir);
  if (!finished.ok() || !finished->has_value()) return std::nullopt;
  if (options.command == CtlCommand::kStatus) {
    return Answer(**finished, kFromFiles, options, output);
  }
  if (options.command != CtlCommand::kCheckpoints) return std::nullopt;
  const auto checkpoints = ReadCheckpoints(*options.location.run_dir);
  if (!checkpoints.ok()) return std::nullopt;
  return Answer(*checkpoints, options, output);
}

}  // namespace

CtlOutput CtlOutput::ForStandardStreams() {
  CtlOutput output;
  output.out = [](std::string_view text) { WriteTo(stdout, text); };
  output.err = [](std::string_view text) { WriteTo(stderr, text); };
  const char* terminal = std::getenv("TERM");
  output.is_terminal =
      ::isatty(STDOUT_FILENO) == 1 && terminal != nullptr && std::string_view(terminal) != "dumb";
  const char* no_color = std::getenv("NO_COLOR");
  output.use_color = output.is_terminal && (no_color == nullptr || *no_color == '\0');
  output.num_rows = [] {
    winsize size{};
    return ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0
               ? static_cast<size_t>(size.ws_row)
               : size_t{24};
  };
  output.unix_seconds = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  output.time_of_day = [] {
    return fmt::format(
        "{:%H:%M:%S}",
        fmt::localtime(std::chrono::system_clock::to_time_t(std::chrono::system_clock::now())));
  };
  return output;
}

int RunCtl(const CtlOptions& options, const CtlOutput& output) {
  if (options.command == CtlCommand::kWatch) return RunCtlWatch(options, output);
  OperatorClient::Options client_options{.location = options.location,
                                         .call_limit = options.timeout};
  if (options.timeout.has_value()) client_options.connect_limit = *options.timeout;
  absl::StatusOr<OperatorClient> client = OperatorClient::Connect(client_options);
  absl::StatusOr<std::string> answer =
      client.ok() ? Ask(*client, options, output) : client.status();
  // The run may have ended in between.
  if (!client.ok() || absl::IsUnavailable(answer.status())) {
    if (std::optional<std::string> files = AskFiles(options, output); files.has_value()) {
      answer = *std::move(files);
    }
  }
  if (!answer.ok()) {
    output.err(fmt::format("albefctl: {}\n", std::string(answer.status().message())));
    return static_cast<int>(ExitCode::kOther);
  }
  output.out(*answer);
  return static_cast<int>(ExitCode::kDone);
}

}  // namespace albef
