#include "coordinator/progress_line.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>

namespace albef {
namespace {

constexpr std::string_view kClearToEnd = "\x1b[K";

}  // namespace

Progress ProgressOf(const StepMetrics& metrics, int64_t num_steps, int64_t num_epochs) {
  Progress progress{.step = metrics.step,
                    .num_steps = num_steps,
                    .epoch = metrics.epoch,
                    .num_epochs = num_epochs,
                    .loss_mlm = metrics.loss_mlm,
                    .loss_itc = metrics.loss_itc,
                    .loss_itm = metrics.loss_itm,
                    .lr = metrics.lr,
                    .samples_per_second = metrics.samples_per_second,
                    .data_wait_ratio = metrics.data_wait_ratio,
                    .skipped = metrics.skipped};
  if (metrics.seconds_per_step > 0) progress.seconds_per_step = metrics.seconds_per_step;
  return progress;
}

std::string FormatDuration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const int64_t total = std::llround(seconds);
  const int64_t hours = total / 3600;
  if (hours >= 100) return fmt::format("{}d {:02}:{:02}", hours / 24, hours % 24, total / 60 % 60);
  return fmt::format("{}:{:02}:{:02}", hours, total / 60 % 60, total % 60);
}

std::string FormatProgress(const Progress& p) {
  std::string line = fmt::format(
      "step {}/{}  epoch {}/{}  loss {:.3f} (mlm {:.3f} itc {:.3f} itm {:.3f})  lr "
      "{:.2e}  {:.1f} pairs/s  data wait {:.0f}%",
      p.step, p.num_steps, p.epoch, p.num_epochs, p.loss_mlm + p.loss_itc + p.loss_itm, p.loss_mlm,
      p.loss_itc, p.loss_itm, p.lr, p.samples_per_second, 100 * p.data_wait_ratio);
  if (p.skipped > 0) line += fmt::format("  skipped {}", p.skipped);
  if (p.seconds_per_step.has_value()) {
    const double remaining = static_cast<double>(std::max<int64_t>(0, p.num_steps - p.step));
    line += fmt::format("  ETA {}", FormatDuration(remaining * *p.seconds_per_step));
  }
  return line;
}

ProgressPrinter::Options ProgressPrinter::Options::ForDescriptor(int fd) {
  Options options;
  if (::isatty(fd) == 1) {
    winsize size{};
    const bool is_known = ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    options.columns = is_known ? size.ws_col : 80;
  }
  options.write = [fd](std::string_view text) {
    while (!text.empty()) {
      const ssize_t count = ::write(fd, text.data(), text.size());
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return;
      text.remove_prefix(static_cast<size_t>(count));
    }
  };
  return options;
}

void ProgressPrinter::Show(const Progress& progress) {
  const auto now = options_.now();
  const bool is_terminal = options_.columns.has_value();
  const auto interval = is_terminal ? options_.terminal_interval : options_.plain_interval;
  const bool is_last = progress.step >= progress.num_steps;
  if (last_print_.has_value() && now - *last_print_ < interval && !is_last) return;
  last_print_ = now;
  std::string line = FormatProgress(progress);
  if (!is_terminal) {
    options_.write(line + "\n");
    return;
  }
  // A line as wide as the terminal would wrap, and what has wrapped cannot be rewritten.
  line.resize(std::min(line.size(), static_cast<size_t>(std::max(1, *options_.columns - 1))));
  options_.write(fmt::format("\r{}{}", line, kClearToEnd));
  is_line_open_ = true;
}

void ProgressPrinter::EndLine() {
  if (is_line_open_) options_.write("\n");
  is_line_open_ = false;
}

}  // namespace albef
