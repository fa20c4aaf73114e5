// Batches in order, read ahead by several threads.
#ifndef ALBEF_DATALOADER_BATCH_STREAM_H_
#define ALBEF_DATALOADER_BATCH_STREAM_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "dataloader/bad_sample.h"
#include "dataloader/batch.h"
#include "dataloader/sample_order.h"
#include "dataloader/sample_reader.h"

namespace albef {

// The batches of the virtual ranks [virtual_rank_begin, virtual_rank_end), ordered by iteration,
// then virtual rank. A batch is a function of (seed, iteration, virtual rank, data) alone: neither
// the place where the stream was started nor the number of threads or the speed of the storage
// shows in it.
//
// The threads start with Create and are joined by the destructor. Next is to be called from one
// thread; handles may be released from any, but all before the stream is destroyed.
class BatchStream {
 public:
  struct Options : SampleReader::Options {
    int image_res = 256;
    double mlm_probability = 0.15;

    std::optional<EpochPlan> plan;  // required
    int virtual_rank_begin = 0;
    int virtual_rank_end = 1;
    int64_t start_iteration = 0;
    // Of the first iteration only these, in ascending order; absent: all.
    std::optional<std::vector<int64_t>> first_virtual_ranks;
    std::optional<int64_t> end_iteration;  // exclusive; absent: without end

    int num_threads = 1;
    int prefetch_batches = 2;  // slots: batches being read, ready, or held by the caller

    // The stream ends with an error when more than this share of the samples handed out was bad,
    // judged from 100 samples (or an epoch's, where that is fewer) on.
    double max_bad_fraction = 0.05;
    // Called by Next for each bad sample of the batch it is about to return, in order.
    std::function<void(const BadSample&)> on_bad_sample;

    // For Statistics::wait.
    std::function<std::chrono::steady_clock::time_point()> now = std::chrono::steady_clock::now;
  };

  struct Statistics {
    int64_t samples = 0;                         // handed out
    std::map<std::string, int64_t> bad_samples;  // by reason, among them
    std::chrono::nanoseconds wait{};             // time Next spent waiting, all together
  };

  // INVALID_ARGUMENT names the option that is missing or impossible.
  static absl::StatusOr<std::unique_ptr<BatchStream>> Create(Options options);
  BatchStream(const BatchStream&) = delete;
  BatchStream& operator=(const BatchStream&) = delete;
  ~BatchStream();

  // Frees the batch's slot for reading ahead.
  struct Release {
    BatchStream* stream = nullptr;
    void operator()(const Batch* batch) const { stream->Free(batch); }
  };
  using Handle = std::unique_ptr<const Batch, Release>;

  // The next batch, waiting for it if need be. OUT_OF_RANGE at `end_iteration`; FAILED_PRECONDITION
  // while the caller still holds the batch `prefetch_batches` before. Any other error ends the
  // stream: it is returned for good, and comes where the batch would have come, however far the
  // threads were ahead. DATA_LOSS: too many bad samples; else the code of the image loader.
  absl::StatusOr<Handle> Next();

  // For the thread that calls Next.
  const Statistics& statistics() const { return statistics_; }

 private:
  struct Slot {
    enum class State { kFree, kReading, kReady, kHeld };
    State state = State::kFree;
    absl::Status status;
    int rows_left = 0;
    std::vector<uint8_t> image_BHWC;
    std::vector<SampleReader::Result> samples;  // by row
    Batch batch;
  };
  // The batch `sequence` places after the first of the stream.
  struct Coordinates {
    int64_t iteration;
    int virtual_rank;
  };

  explicit BatchStream(Options options);

  void Start();
  void Work();
  absl::Status ReadRow(Slot& slot, int64_t sequence, int row);
  absl::Status Assemble(Slot& slot, int64_t sequence) const;
  absl::Status TakeStock(const Slot& slot);
  void Free(const Batch* batch);

  Coordinates At(int64_t sequence) const;
  Slot& SlotOf(int64_t sequence) { return slots_[static_cast<size_t>(sequence) % slots_.size()]; }
  bool HasWork() const;

  const Options options_;
  const SampleReader reader_;
  const int64_t num_batches_;  // of the whole stream

  // Of the thread that calls Next.
  int64_t next_out_ = 0;
  absl::Status end_;  // not OK once the stream has ended with an error
  Statistics statistics_;
  int64_t bad_positions_ = 0;
  std::vector<std::string> first_bad_samples_;  // for the message

  // What a slot holds belongs to the reading threads while kReading, then to the caller of Next;
  // `state`, `status` and `rows_left` are guarded by mutex_, as is all below.
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::condition_variable work_or_stop_;
  std::condition_variable ready_;
  int64_t next_sequence_ = 0;  // batch and row that a thread takes next
  int next_row_ = 0;
  bool failed_ = false;  // no further batch is begun
  bool stopping_ = false;

  std::vector<std::thread> threads_;
};

}  // namespace albef

#endif  // ALBEF_DATALOADER_BATCH_STREAM_H_
