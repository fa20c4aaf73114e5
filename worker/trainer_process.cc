#include "worker/trainer_process.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <system_error>

#include "common/status_macros.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

std::string_view ActionName(v1::StartAction action) {
  switch (action) {
    case v1::START_ACTION_NEW:
      return "new";
    case v1::START_ACTION_IMPORT:
      return "import";
    default:
      return "continue";
  }
}

int64_t NextIncarnation() {
  static int64_t last = 0;  // the clock may be set back while this process lives
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  last = std::max(last + 1, std::chrono::duration_cast<std::chrono::microseconds>(now).count());
  return last;
}

// The first line of a file under /proc, empty where there is none.
std::string ReadLine(const fs::path& path) {
  const absl::StatusOr<std::string> text = ReadFile(path);
  return text.ok() ? text->substr(0, text->find('\n')) : "";
}

}  // namespace

std::vector<std::string> TrainerArguments(const TrainerProcess::Options& options,
                                          int64_t incarnation, int64_t parent_pid) {
  std::vector<std::string> arguments = {"--supervised",
                                        fmt::format("--parent-pid={}", parent_pid),
                                        "--run-dir=" + options.run_dir.string(),
                                        "--run-id=" + options.run_id,
                                        "--device=" + options.device,
                                        fmt::format("--action={}", ActionName(options.action)),
                                        fmt::format("--incarnation={}", incarnation),
                                        fmt::format("--order={}", options.order),
                                        fmt::format("--local-rank={}", options.local_rank),
                                        "--mesh-host=" + options.mesh_host};
  if (options.action == v1::START_ACTION_IMPORT) {
    arguments.push_back("--import-path=" + options.import_path);
  }
  return arguments;
}

absl::StatusOr<std::unique_ptr<TrainerProcess>> TrainerProcess::Start(const Options& options) {
  const int64_t incarnation = NextIncarnation();
  ASSIGN_OR_RETURN(auto sockets, ControlSocket::MakePair());
  ASSIGN_OR_RETURN(std::unique_ptr<OutputTap> output,
                   OutputTap::Start({.file = options.run_dir / "logs" / options.log_name}));
  ASSIGN_OR_RETURN(
      std::unique_ptr<ChildProcess> process,
      ChildProcess::Start({.program = options.program,
                           .arguments = TrainerArguments(options, incarnation, ::getpid()),
                           .descriptors = {sockets.second.get()},
                           .output = output->input()}));
  output->CloseInput();
  return std::unique_ptr<TrainerProcess>(new TrainerProcess(
      incarnation, std::move(output), std::move(process), std::move(sockets.first)));
}

std::string DescribeThreads(pid_t pid) {
  std::string text;
  std::error_code error;
  const fs::path tasks = fmt::format("/proc/{}/task", pid);
  for (fs::directory_iterator entry(tasks, error), end; !error && entry != end;
       entry.increment(error)) {
    // "4711 (name) S …": the name may hold anything, also parentheses.
    const std::string stat = ReadLine(entry->path() / "stat");
    const size_t open = stat.find('('), close = stat.rfind(')');
    if (open == stat.npos || close == stat.npos || close + 2 >= stat.size()) continue;
    if (!text.empty()) text += "; ";
    text += fmt::format("{} {} {}", stat.substr(open + 1, close - open - 1), stat[close + 2],
                        ReadLine(entry->path() / "wchan"));
  }
  return text;
}

}  // namespace albef
