// The line that a person watches while a run trains.
#ifndef ALBEF_COORDINATOR_PROGRESS_LINE_H_
#define ALBEF_COORDINATOR_PROGRESS_LINE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "coordinator/run_log.h"

namespace albef {

struct Progress {
  int64_t step = 0;  // iterations done
  int64_t num_steps = 0;
  int64_t epoch = 0;  // from 0, as the authors count
  int64_t num_epochs = 0;
  double loss_mlm = 0;
  double loss_itc = 0;
  double loss_itm = 0;
  double lr = 0;
  double samples_per_second = 0;
  double data_wait_ratio = 0;
  int64_t skipped = 0;
  std::optional<double> seconds_per_step = {};  // unset: not known yet, no ETA
};

Progress ProgressOf(const StepMetrics& metrics, int64_t num_steps, int64_t num_epochs);

// "step 120/3000  epoch 2/30  loss 9.87 (mlm 2.42 itc 6.81 itm 0.64)  …  ETA 0:12:05"
std::string FormatProgress(const Progress& progress);

// "0:00:07", "27:46:40"; days from 100 hours on: "4d 05:20".
std::string FormatDuration(double seconds);

// Shows progress: on a terminal one line that is rewritten, elsewhere a plain line from time to
// time. Not thread-safe.
class ProgressPrinter {
 public:
  struct Options {
    std::optional<int> columns = {};  // width of the terminal; unset: not a terminal
    std::chrono::milliseconds terminal_interval = std::chrono::milliseconds(100);
    std::chrono::milliseconds plain_interval = std::chrono::seconds(10);
    std::function<void(std::string_view)> write = {};
    std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;

    // Writes to a descriptor that outlives the printer. What it does not take is dropped.
    static Options ForDescriptor(int fd);
  };

  explicit ProgressPrinter(Options options) : options_(std::move(options)) {}

  // Prints unless the last print was just now; the first and the last step always.
  void Show(const Progress& progress);

  // Ends a rewritten line, so that others may print below it. Show may follow.
  void EndLine();

 private:
  const Options options_;
  std::optional<std::chrono::steady_clock::time_point> last_print_;
  bool is_line_open_ = false;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_PROGRESS_LINE_H_
