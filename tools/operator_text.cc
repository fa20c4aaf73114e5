#include "tools/operator_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "coordinator/progress_line.h"
#include "coordinator/run_state.h"

namespace albef {
namespace {

constexpr std::string_view kGreen = "\x1b[32m";
constexpr std::string_view kYellow = "\x1b[33m";
constexpr std::string_view kRed = "\x1b[31m";
constexpr std::string_view kPlain = "\x1b[0m";

// One line without control characters; other bytes as they are.
std::string Printable(std::string_view text) {
  std::string line;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      line += " | ";
    } else {
      line += byte < 0x20 || byte == 0x7f ? ' ' : c;
    }
  }
  return line;
}

std::string Colored(std::string_view text, std::string_view color, const TextOptions& options) {
  if (!options.use_color || color.empty()) return std::string(text);
  return fmt::format("{}{}{}", color, text, kPlain);
}

std::string_view ColorOf(v1::RunState state) {
  switch (state) {
    case v1::RUN_STATE_RUNNING:
    case v1::RUN_STATE_SUCCEEDED:
      return kGreen;
    case v1::RUN_STATE_FAILED:
      return kRed;
    default:
      return kYellow;
  }
}

std::string_view ColorOfWorker(std::string_view state) {
  if (state == "running") return kGreen;
  if (state == "lost") return kRed;
  if (state == "spare") return {};
  return kYellow;
}

std::string Count(int64_t count, std::string_view singular) {
  return fmt::format("{} {}{}", count, singular, count == 1 ? "" : "s");
}

std::string Steps(const v1::RunStatus& status) {
  if (status.target_step() <= 0) return fmt::format("step {}", status.step());
  return fmt::format("step {} of {}", status.step(), status.target_step());
}

// Rows below a head; columns as wide as their widest cell, numbers to the right.
class Table {
 public:
  struct Column {
    std::string_view head;
    bool is_number = false;
  };
  struct Cell {
    std::string text;
    std::string_view color = {};
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void Add(std::vector<Cell> row) { rows_.push_back(std::move(row)); }

  std::string Format(const TextOptions& options) const {
    std::vector<size_t> widths;
    for (size_t i = 0; i < columns_.size(); ++i) {
      size_t width = columns_[i].head.size();
      for (const std::vector<Cell>& row : rows_) width = std::max(width, row[i].text.size());
      widths.push_back(width);
    }
    std::vector<Cell> head;
    for (const Column& column : columns_) head.push_back({.text = std::string(column.head)});
    std::string text = FormatRow(head, widths, options);
    const size_t shown = std::min(rows_.size(), options.max_rows);
    for (size_t i = 0; i < shown; ++i) text += FormatRow(rows_[i], widths, options);
    if (shown < rows_.size()) text += fmt::format("… and {} more\n", rows_.size() - shown);
    return text;
  }

 private:
  std::string FormatRow(const std::vector<Cell>& row, const std::vector<size_t>& widths,
                        const TextOptions& options) const {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - row[i].text.size(), ' ');
      const std::string cell = Colored(row[i].text, row[i].color, options);
      if (i > 0) line += "  ";
      line += columns_[i].is_number ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    return line + "\n";
  }

  const std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

void AddLine(std::string& text, std::string_view name, std::string_view value) {
  text += fmt::format("{:<12}{}\n", name, value);
}

std::string Losses(const v1::StepReport& step) {
  return fmt::format("{:.3f} (mlm {:.3f}, itc {:.3f}, itm {:.3f}) at step {}, epoch {}",
                     step.loss_mlm() + step.loss_itc() + step.loss_itm(), step.loss_mlm(),
                     step.loss_itc(), step.loss_itm(), step.step(), step.epoch());
}

std::string Speed(const v1::RunStatus& status) {
  const v1::StepReport& step = status.last_step();
  std::string text = fmt::format("{:.1f} pairs/s", step.samples_per_second());
  if (step.seconds_per_step() > 0) {
    text += fmt::format(", {:.3g} s per step", step.seconds_per_step());
  }
  text += fmt::format(", {:.0f} % of it waiting for data", 100 * step.data_wait_ratio());
  if (status.state() == v1::RUN_STATE_RUNNING && step.seconds_per_step() > 0 &&
      status.target_step() > status.step()) {
    const auto remaining = static_cast<double>(status.target_step() - status.step());
    text += fmt::format(", {} to go", FormatDuration(remaining * step.seconds_per_step()));
  }
  return text;
}

std::string Workers(const v1::RunStatus& status) {
  std::string text = fmt::format("{} in training", status.num_members());
  if (status.num_spares() > 0) text += fmt::format(", {}", Count(status.num_spares(), "spare"));
  if (status.virtual_ranks() > 0) {
    text += fmt::format(", {}", Count(status.virtual_ranks(), "virtual rank"));
  }
  if (status.efficiency() > 0 && status.efficiency() < 1) {
    text += fmt::format(": {:.0f} % efficiency, they cannot be shared out evenly",
                        100 * status.efficiency());
  }
  return text;
}

std::string CheckpointAge(const v1::Checkpoint& checkpoint, double now_unix_seconds) {
  if (checkpoint.committed_unix_seconds() <= 0) return "?";
  return FormatAge(std::max(0.0, now_unix_seconds - checkpoint.committed_unix_seconds()));
}

}  // namespace

std::string FormatAge(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e10) return "?";
  const int64_t total = std::llround(seconds);
  if (total < 60) return fmt::format("{} s", total);
  if (total < 3600) return fmt::format("{} min {:02} s", total / 60, total % 60);
  if (total < 86400) return fmt::format("{} h {:02} min", total / 3600, total / 60 % 60);
  return fmt::format("{} d {:02} h", total / 86400, total / 3600 % 24);
}

std::string FormatSize(int64_t bytes) {
  if (bytes < 1000) return fmt::format("{} B", bytes);
  auto size = static_cast<double>(bytes);
  const char* unit = "B";
  for (const char* next : {"kB", "MB", "GB", "TB", "PB"}) {
    // What would be printed as 1000 belongs to the next unit.
    if (size < 999.5) break;
    size /= 1000;
    unit = next;
  }
  return fmt::format("{:.{}f} {}", size, size < 9.995 ? 2 : size < 99.95 ? 1 : 0, unit);
}

std::string FormatStatus(const v1::RunStatus& status, std::string_view source,
                         double now_unix_seconds, const TextOptions& options) {
  std::string text;
  std::string run = Printable(status.run_id());
  if (!status.run_dir().empty()) {
    run += fmt::format("{}in {}", run.empty() ? "" : " ", Printable(status.run_dir()));
  }
  AddLine(text, "run", run);
  std::string state = Colored(StateName(status.state()), ColorOf(status.state()), options);
  if (!IsEnd(status.state())) state += " for " + FormatAge(status.state_seconds());
  AddLine(text, "state", state);
  if (!status.reason().empty()) AddLine(text, "reason", Printable(status.reason()));
  std::string step = std::to_string(status.step());
  if (status.target_step() > 0) {
    step += fmt::format(
        " of {} ({:.1f} %)", status.target_step(),
        100 * static_cast<double>(status.step()) / static_cast<double>(status.target_step()));
  }
  if (status.last_step().skipped() > 0) {
    step += fmt::format(", {} skipped: not finite", status.last_step().skipped());
  }
  AddLine(text, "step", step);
  if (status.has_last_step()) {
    AddLine(text, "loss", Losses(status.last_step()));
    if (!IsEnd(status.state())) AddLine(text, "speed", Speed(status));
  }
  if (!IsEnd(status.state())) AddLine(text, "workers", Workers(status));
  if (status.has_last_checkpoint()) {
    const v1::Checkpoint& checkpoint = status.last_checkpoint();
    AddLine(text, "checkpoint",
            fmt::format("step {}, {}, {} ago, {}", checkpoint.step(),
                        FormatSize(checkpoint.size_bytes()),
                        CheckpointAge(checkpoint, now_unix_seconds), Printable(checkpoint.path())));
  } else {
    AddLine(text, "checkpoint", "none yet");
  }
  if (!IsEnd(status.state()) || status.recoveries() > 0) {
    AddLine(text, "recoveries", std::to_string(status.recoveries()));
  }
  if (IsEnd(status.state())) {
    AddLine(text, "exit code", std::to_string(status.exit_code()));
    if (!status.state_digest().empty()) AddLine(text, "digest", Printable(status.state_digest()));
  }
  std::string coordinator(source);
  if (status.term() > 0) {
    coordinator += fmt::format(", term {}, generation {}", status.term(), status.generation());
  }
  AddLine(text, "from", coordinator);
  return text;
}

std::string FormatBrief(const v1::RunStatus& status, const TextOptions& options) {
  return fmt::format(
      "{} at {}{}{}\n", Colored(StateName(status.state()), ColorOf(status.state()), options),
      Steps(status), status.reason().empty() ? "" : ": ", Printable(status.reason()));
}

std::string FormatNews(const v1::RunStatus& status, const TextOptions& options) {
  std::string text =
      fmt::format("{}  {}  generation {}  {}",
                  Colored(StateName(status.state()), ColorOf(status.state()), options),
                  Steps(status), status.generation(), Count(status.num_members(), "worker"));
  if (status.num_spares() > 0) text += fmt::format(" + {}", Count(status.num_spares(), "spare"));
  if (status.has_last_checkpoint()) {
    text += fmt::format("  checkpoint {}", status.last_checkpoint().step());
  }
  if (!status.reason().empty()) text += "  " + Printable(status.reason());
  return text + "\n";
}

std::string FormatWorkers(const v1::ListWorkersResponse& workers, const TextOptions& options) {
  if (workers.workers().empty()) return "no workers\n";
  Table table({{"RANK", true},
               {"WORKER"},
               {"HOST"},
               {"STATE"},
               {"STEP", true},
               {"DOING"},
               {"VIRTUAL RANKS"},
               {"RESTARTS", true},
               {"SUPERVISOR", true},
               {"TRAINER", true}});
  for (const v1::Worker& worker : workers.workers()) {
    const int64_t first = worker.virtual_rank_begin();
    const int64_t last = worker.virtual_rank_end() - 1;
    std::string virtual_ranks = "-";
    if (last >= first) {
      virtual_ranks = last == first ? std::to_string(first) : fmt::format("{} to {}", first, last);
    }
    const auto or_dash = [](int64_t value, bool is_known) {
      return is_known ? std::to_string(value) : std::string("-");
    };
    table.Add({{.text = or_dash(worker.rank(), worker.rank() >= 0)},
               {.text = Printable(worker.worker_id())},
               {.text = Printable(worker.host())},
               {.text = Printable(worker.state()), .color = ColorOfWorker(worker.state())},
               {.text = or_dash(worker.step(), worker.trainer_pid() > 0)},
               {.text = worker.section().empty() ? "-" : Printable(worker.section())},
               {.text = virtual_ranks},
               {.text = std::to_string(worker.restarts())},
               {.text = or_dash(worker.supervisor_pid(), worker.supervisor_pid() > 0)},
               {.text = or_dash(worker.trainer_pid(), worker.trainer_pid() > 0)}});
  }
  return table.Format(options);
}

std::string FormatCheckpoints(const v1::ListCheckpointsResponse& checkpoints,
                              double now_unix_seconds, const TextOptions& options) {
  if (checkpoints.checkpoints().empty()) return "no checkpoints\n";
  Table table({{"STEP", true}, {"AGE", true}, {"SIZE", true}, {"DIGEST"}, {"PATH"}});
  for (const v1::Checkpoint& checkpoint : checkpoints.checkpoints()) {
    table.Add({{.text = std::to_string(checkpoint.step())},
               {.text = CheckpointAge(checkpoint, now_unix_seconds)},
               {.text = FormatSize(checkpoint.size_bytes())},
               {.text = Printable(checkpoint.state_digest())},
               {.text = Printable(checkpoint.path())}});
  }
  return table.Format(options);
}

}  // namespace albef
