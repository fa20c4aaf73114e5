// albefctl watch: redraws status and workers on a terminal, prints a line per change elsewhere.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <tuple>

#include "common/exit_code.h"
#include "coordinator/run_state.h"
#include "tools/albefctl.h"
#include "tools/finished_run.h"
#include "tools/operator_json.h"
#include "tools/operator_text.h"

namespace albef {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kRedrawInterval(1);
constexpr std::chrono::seconds kProgressInterval(10);
// How long a coordinator may be gone: as long as workers wait to take over, and more.
constexpr std::chrono::seconds kReconnectLimit(60);
// After so many intervals without news the coordinator is asked whether it is still there: a host
// that vanishes closes no connection.
constexpr int kSilentIntervals = 5;

// Shows one status after the other.
class StatusScreen {
 public:
  StatusScreen(const CtlOptions& options, const CtlOutput& output)
      : options_(options), output_(output) {}

  const std::optional<v1::RunStatus>& newest() const { return newest_; }

  void Show(const v1::RunStatus& status, OperatorClient* client) {
    const std::optional<v1::RunStatus> before = std::exchange(newest_, status);
    shown_at_ = Clock::now();
    if (options_.json) {
      output_.out(StatusJson(status, JsonLayout::kLine));
    } else if (output_.is_terminal) {
      source_ = client != nullptr ? client->address() : "the files of the run; it has ended";
      workers_ = {};
      if (client != nullptr && !IsEnd(status.state())) {
        if (auto workers = client->ListWorkers(); workers.ok()) workers_ = *std::move(workers);
      }
      Draw();
    } else if (!before.has_value() || IsNews(*before, status) ||
               shown_at_ - printed_at_ >= kProgressInterval) {
      printed_at_ = shown_at_;
      output_.out(output_.time_of_day() + "  " + FormatNews(status, {}));
    }
  }

  // Time has passed: ages have grown.
  void Refresh() {
    if (!newest_.has_value() || options_.json || !output_.is_terminal) return;
    const auto now = Clock::now();
    newest_->set_state_seconds(newest_->state_seconds() +
                               std::chrono::duration<double>(now - shown_at_).count());
    shown_at_ = now;
    Draw();
  }

  void Say(const std::string& text) {
    num_drawn_lines_ = 0;  // what stands there stays
    output_.err(text);
  }

 private:
  static bool IsNews(const v1::RunStatus& before, const v1::RunStatus& now) {
    const auto key = [](const v1::RunStatus& status) {
      return std::tuple(status.state(), status.reason(), status.term(), status.generation(),
                        status.num_members(), status.num_spares(), status.last_checkpoint().step());
    };
    return key(before) != key(now);
  }

  void Draw() {
    TextOptions text_options{.use_color = output_.use_color};
    std::string text = FormatStatus(*newest_, source_, output_.unix_seconds(), text_options);
    if (!workers_.workers().empty()) {
      // What does not fit on the screen could not be drawn over.
      const auto used = static_cast<size_t>(std::count(text.begin(), text.end(), '\n'));
      constexpr size_t kFrameRows = 4;  // empty line, head, "… and n more", cursor
      const size_t rows = output_.num_rows();
      text_options.max_rows = rows > used + kFrameRows ? rows - used - kFrameRows : 1;
      text += "\n" + FormatWorkers(workers_, text_options);
    }
    // Back over the old picture, which goes; long lines are cut, not wrapped, or the count of lines
    // would be wrong.
    std::string frame = "\x1b[?7l";
    if (num_drawn_lines_ > 0) frame += fmt::format("\x1b[{}A", num_drawn_lines_);
    frame += "\r\x1b[J" + text + "\x1b[?7h";
    output_.out(frame);
    num_drawn_lines_ = std::count(text.begin(), text.end(), '\n');
  }

  const CtlOptions& options_;
  const CtlOutput& output_;
  std::optional<v1::RunStatus> newest_;
  v1::ListWorkersResponse workers_;
  std::string source_;
  Clock::time_point shown_at_;
  Clock::time_point printed_at_;
  int64_t num_drawn_lines_ = 0;
};

}  // namespace

int RunCtlWatch(const CtlOptions& options, const CtlOutput& output) {
  StatusScreen screen(options, output);
  OperatorClient::Options client_options{.location = options.location};
  if (options.timeout.has_value()) client_options.connect_limit = *options.timeout;
  for (;;) {
    absl::StatusOr<OperatorClient> client = OperatorClient::Connect(client_options);
    absl::Status ended = client.status();
    if (client.ok()) {
      int num_silent = 0;
      absl::Status alive;
      ended = client->Watch(kRedrawInterval, [&](const v1::RunStatus* status) {
        if (status != nullptr) {
          num_silent = 0;
          screen.Show(*status, &*client);
          return !IsEnd(status->state());
        }
        screen.Refresh();
        if (++num_silent % kSilentIntervals == 0) alive = client->GetStatus().status();
        return alive.ok();
      });
      ended.Update(alive);
      if (screen.newest().has_value() && IsEnd(screen.newest()->state())) {
        return screen.newest()->exit_code();
      }
    }
    if (options.location.run_dir.has_value()) {
      if (const auto finished = ReadFinishedRun(*options.location.run_dir);
          finished.ok() && finished->has_value()) {
        screen.Show(**finished, nullptr);
        return (*finished)->exit_code();
      }
    }
    const bool may_come_back = client.ok() && (ended.ok() || absl::IsUnavailable(ended));
    if (!may_come_back) {
      screen.Say(fmt::format("albefctl: {}\n", std::string(ended.message())));
      return static_cast<int>(ExitCode::kOther);
    }
    screen.Say(fmt::format("albefctl: lost the coordinator at {}; waiting for it or the next\n",
                           client->address()));
    if (!options.timeout.has_value()) client_options.connect_limit = kReconnectLimit;
  }
}

}  // namespace albef
