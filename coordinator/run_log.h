// What training has to say to people: steps, events and bad samples. The recorder writes it to the
// run directory; a worker's trainer sends it to the recorder of the coordinator.
#ifndef ALBEF_COORDINATOR_RUN_LOG_H_
#define ALBEF_COORDINATOR_RUN_LOG_H_

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace albef {

// Where an iteration's time goes: wall time of the training thread. On a GPU work is only queued
// there, and shows up where the thread waits for it: at the gate.
struct PhaseSeconds {
  double data_wait = 0;  // for the next batch, its upload included
  double prologue = 0;
  double forward = 0;
  double backward = 0;
  double reduction = 0;  // what is left of it after the last backward
  double gate = 0;       // waiting for the slowest worker included
  double commit = 0;
};

struct Phase {
  std::string_view name;
  double PhaseSeconds::*seconds;
};

inline constexpr std::array kPhases = {
    Phase{"data_wait", &PhaseSeconds::data_wait}, Phase{"prologue", &PhaseSeconds::prologue},
    Phase{"forward", &PhaseSeconds::forward},     Phase{"backward", &PhaseSeconds::backward},
    Phase{"reduction", &PhaseSeconds::reduction}, Phase{"gate", &PhaseSeconds::gate},
    Phase{"commit", &PhaseSeconds::commit},
};

// One line of metrics.jsonl. Losses are means over the virtual ranks.
struct StepMetrics {
  int64_t step = 0;  // iterations done, this one included
  int64_t epoch = 0;
  double loss_mlm = 0;
  double loss_itc = 0;
  double loss_itm = 0;
  double loss = 0;
  double lr = 0;
  double temp = 0;
  double alpha = 0;
  double samples_per_second = 0;
  double data_wait_ratio = 0;  // share of the time in which the step waited for data
  int64_t workers = 1;
  int64_t generation = 0;
  int64_t skipped = 0;          // iterations of the run so far without a commit
  double seconds_per_step = 0;  // smoothed; for the terminal only
  PhaseSeconds phases = {};     // per step since the last report; for /metrics only
};

using EventValue = std::variant<int64_t, double, bool, std::string>;

// One line of events.jsonl, which also gets the time. Keys of facts in use: step, duration_s,
// state_digest, path, from, to (a range [from, to) of steps). Dots in a key make nested objects.
struct Event {
  std::string kind = {};    // "checkpoint_committed"
  std::string reason = {};  // "end of epoch 3"
  std::vector<std::pair<std::string, EventValue>> facts = {};
};

// Implementations are thread-safe and never fail: recording must not stop training.
class RunLog {
 public:
  virtual ~RunLog() = default;

  // The training state is that after `step` now. Steps recorded beyond it will be repeated: an
  // event names them and RecordStep writes them again.
  virtual void RestartAfter(int64_t step, const std::string& reason) = 0;

  // Does nothing for a step that is recorded already.
  virtual void RecordStep(const StepMetrics& metrics) = 0;

  virtual void RecordEvent(const Event& event) = 0;

  // One JSON object without a newline, for bad_samples.jsonl.
  virtual void RecordBadSample(std::string json) = 0;
};

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_LOG_H_
