#include "dataloader/batch_stream.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <pthread.h>

#include <algorithm>
#include <exception>
#include <limits>
#include <new>
#include <system_error>
#include <utility>

#include "absl/functional/function_ref.h"
#include "common/status_macros.h"
#include "dataloader/masking.h"
#include "dataloader/token_batch.h"

namespace albef {
namespace {

// Below so many samples a share says nothing.
constexpr int64_t kMinSamplesToJudge = 100;
constexpr size_t kBadSamplesInMessage = 3;

int64_t NumHosted(const BatchStream::Options& options) {
  return options.virtual_rank_end - options.virtual_rank_begin;
}

int64_t NumInFirstIteration(const BatchStream::Options& options) {
  return options.first_virtual_ranks ? static_cast<int64_t>(options.first_virtual_ranks->size())
                                     : NumHosted(options);
}

bool IsPartOfSlice(const std::vector<int64_t>& ranks, const BatchStream::Options& options) {
  return std::ranges::adjacent_find(ranks, std::greater_equal()) == ranks.end() &&
         std::ranges::all_of(ranks, [&](int64_t v) {
           return options.virtual_rank_begin <= v && v < options.virtual_rank_end;
         });
}

absl::Status Check(const BatchStream::Options& options) {
  const auto require = [](bool holds, std::string_view what) {
    return holds ? absl::OkStatus()
                 : absl::InvalidArgumentError(fmt::format("batch stream: {}", what));
  };
  RETURN_IF_ERROR(require(options.source && options.tokenizer && options.image_loader,
                          "source, tokenizer and image_loader are required"));
  RETURN_IF_ERROR(require(options.plan.has_value(), "plan is required"));
  RETURN_IF_ERROR(require(options.plan->num_samples() == options.source->size(),
                          fmt::format("the plan is for {} samples, the source has {}",
                                      options.plan->num_samples(), options.source->size())));
  RETURN_IF_ERROR(require(options.virtual_rank_begin >= 0 &&
                              options.virtual_rank_begin < options.virtual_rank_end &&
                              options.virtual_rank_end <= options.plan->virtual_ranks(),
                          fmt::format("virtual ranks [{}, {}) are no slice of the {} of the plan",
                                      options.virtual_rank_begin, options.virtual_rank_end,
                                      options.plan->virtual_ranks())));
  RETURN_IF_ERROR(
      require(!options.first_virtual_ranks || IsPartOfSlice(*options.first_virtual_ranks, options),
              "first_virtual_ranks must be in ascending order and a part of the slice"));
  RETURN_IF_ERROR(require(
      options.start_iteration >= 0 &&
          options.end_iteration.value_or(options.start_iteration) >= options.start_iteration,
      "iterations must be at least 0 and not end before they start"));
  RETURN_IF_ERROR(require(options.image_res > 0 && options.num_threads > 0 &&
                              options.prefetch_batches > 0 && options.max_words > 0,
                          "image_res, num_threads, prefetch_batches and max_words must be "
                          "positive"));
  RETURN_IF_ERROR(require(options.max_text_length >= 2,
                          "max_text_length must leave room for [CLS] and a token"));
  const auto is_share = [](double x) { return x >= 0 && x <= 1; };
  return require(is_share(options.mlm_probability) && is_share(options.max_bad_fraction),
                 "mlm_probability and max_bad_fraction must be between 0 and 1");
}

int64_t NumBatches(const BatchStream::Options& options) {
  if (!options.end_iteration) return std::numeric_limits<int64_t>::max();
  const int64_t iterations = *options.end_iteration - options.start_iteration;
  if (iterations == 0) return 0;
  return (iterations - 1) * NumHosted(options) + NumInFirstIteration(options);
}

size_t ImageBytes(int image_res) {
  return static_cast<size_t>(image_res) * static_cast<size_t>(image_res) * 3;
}

// A reading thread must not die of an exception (memory, mostly): it would take the process along.
absl::Status WithoutExceptions(absl::FunctionRef<absl::Status()> action) {
  try {
    return action();
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(fmt::format("cannot read a batch: {}", error.what()));
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<BatchStream>> BatchStream::Create(Options options) {
  RETURN_IF_ERROR(Check(options));
  const int slots = options.prefetch_batches;
  const int threads = options.num_threads;
  const size_t slot_bytes =
      static_cast<size_t>(options.plan->batch_size()) * ImageBytes(options.image_res);
  try {
    std::unique_ptr<BatchStream> stream(new BatchStream(std::move(options)));
    stream->Start();
    return stream;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError(fmt::format(
        "batch stream: no memory for {} slots of {} bytes; lower prefetch_batches or batch_size",
        slots, slot_bytes));
  } catch (const std::system_error& error) {
    return absl::ResourceExhaustedError(fmt::format(
        "batch stream: cannot start {} threads: {}; lower num_threads", threads, error.what()));
  }
}

BatchStream::BatchStream(Options options)
    : options_(std::move(options)),
      reader_(options_),
      num_batches_(NumBatches(options_)),
      slots_(static_cast<size_t>(options_.prefetch_batches)) {
  const auto batch_size = static_cast<size_t>(options_.plan->batch_size());
  for (Slot& slot : slots_) {
    slot.image_BHWC.resize(batch_size * ImageBytes(options_.image_res));
    slot.samples.resize(batch_size);
  }
}

void BatchStream::Start() {
  for (int i = 0; i < options_.num_threads; ++i) {
    threads_.emplace_back(&BatchStream::Work, this);
    pthread_setname_np(threads_.back().native_handle(), fmt::format("albef-load-{}", i).c_str());
  }
}

BatchStream::~BatchStream() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  work_or_stop_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

BatchStream::Coordinates BatchStream::At(int64_t sequence) const {
  const int64_t first = NumInFirstIteration(options_);
  if (options_.first_virtual_ranks && sequence < first) {
    const auto v = (*options_.first_virtual_ranks)[static_cast<size_t>(sequence)];
    return {.iteration = options_.start_iteration, .virtual_rank = static_cast<int>(v)};
  }
  const int64_t hosted = NumHosted(options_);
  const int64_t place = sequence + hosted - first;
  return {.iteration = options_.start_iteration + place / hosted,
          .virtual_rank = options_.virtual_rank_begin + static_cast<int>(place % hosted)};
}

bool BatchStream::HasWork() const {
  if (next_row_ > 0) return true;
  const Slot& slot = slots_[static_cast<size_t>(next_sequence_) % slots_.size()];
  return !failed_ && next_sequence_ < num_batches_ && slot.state == Slot::State::kFree;
}

void BatchStream::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    work_or_stop_.wait(lock, [&] { return stopping_ || HasWork(); });
    if (stopping_) return;
    const int64_t sequence = next_sequence_;
    const int row = next_row_;
    Slot& slot = SlotOf(sequence);
    if (row == 0) {
      slot.state = Slot::State::kReading;
      slot.status = absl::OkStatus();
      slot.rows_left = options_.plan->batch_size();
    }
    if (++next_row_ == options_.plan->batch_size()) {
      next_row_ = 0;
      ++next_sequence_;
    }
    const auto unlocked = [&](absl::FunctionRef<absl::Status()> action) {
      lock.unlock();
      absl::Status status = WithoutExceptions(action);
      lock.lock();
      slot.status.Update(std::move(status));
      failed_ = failed_ || !slot.status.ok();
    };
    // After a failure the rest of the batch is only counted down.
    if (slot.status.ok()) unlocked([&] { return ReadRow(slot, sequence, row); });
    if (--slot.rows_left > 0) continue;
    if (slot.status.ok()) unlocked([&] { return Assemble(slot, sequence); });
    slot.state = Slot::State::kReady;
    ready_.notify_one();
  }
}

absl::Status BatchStream::ReadRow(Slot& slot, int64_t sequence, int row) {
  const Coordinates at = At(sequence);
  const size_t image_bytes = ImageBytes(options_.image_res);
  const auto image_HWC =
      std::span(slot.image_BHWC).subspan(static_cast<size_t>(row) * image_bytes, image_bytes);
  const auto pause = [this](std::chrono::milliseconds delay) {
    std::unique_lock lock(mutex_);
    return !work_or_stop_.wait_for(lock, delay, [this] { return stopping_; });
  };
  return reader_.Read(options_.plan->At(at.iteration, at.virtual_rank, row), image_HWC, pause,
                      slot.samples[static_cast<size_t>(row)]);
}

absl::Status BatchStream::Assemble(Slot& slot, int64_t sequence) const {
  const Coordinates at = At(sequence);
  const Vocabulary& vocabulary = options_.tokenizer->vocabulary();
  std::vector<std::span<const int64_t>> rows;
  std::vector<int64_t> sample_index_B;
  for (const SampleReader::Result& sample : slot.samples) {
    rows.emplace_back(sample.input_ids);
    sample_index_B.push_back(sample.sample_index);
  }
  TokenBatch tokens = PadTokens(rows, vocabulary.pad_id());
  MaskedTokens masked = MaskTokens(
      tokens.input_ids_BT,
      {.probability = options_.mlm_probability,
       .vocab_size = vocabulary.size(),
       .pad_id = vocabulary.pad_id(),
       .cls_id = vocabulary.cls_id(),
       .mask_id = vocabulary.mask_id()},
      RandomStream(options_.seed, RandomPurpose::kTokenMasking, static_cast<uint64_t>(at.iteration),
                   static_cast<uint32_t>(at.virtual_rank)));
  slot.batch = {.iteration = at.iteration,
                .virtual_rank = at.virtual_rank,
                .epoch = options_.plan->Epoch(at.iteration),
                .batch_size = options_.plan->batch_size(),
                .image_res = options_.image_res,
                .text_length = tokens.text_length,
                .image_BHWC = slot.image_BHWC,
                .input_ids_BT = std::move(tokens.input_ids_BT),
                .attention_mask_BT = std::move(tokens.attention_mask_BT),
                .mlm_input_ids_BT = std::move(masked.input_ids),
                .masked_index_N = std::move(masked.masked_index_N),
                .masked_label_N = std::move(masked.masked_label_N),
                .sample_index_B = std::move(sample_index_B)};
  return absl::OkStatus();
}

absl::StatusOr<BatchStream::Handle> BatchStream::Next() {
  RETURN_IF_ERROR(end_);
  if (next_out_ == num_batches_) {
    return absl::OutOfRangeError(
        fmt::format("the batches end before iteration {}", *options_.end_iteration));
  }
  Slot& slot = SlotOf(next_out_);
  {
    std::unique_lock lock(mutex_);
    if (slot.state == Slot::State::kHeld) {
      return absl::FailedPreconditionError(fmt::format(
          "the batch {0} before is still held: release it or raise prefetch_batches (now {0})",
          slots_.size()));
    }
    const auto is_ready = [&] { return slot.state == Slot::State::kReady; };
    if (!is_ready()) {
      const auto start = options_.now();
      ready_.wait(lock, is_ready);
      statistics_.wait += options_.now() - start;
    }
    slot.state = Slot::State::kHeld;
    end_ = slot.status;
  }
  end_.Update(TakeStock(slot));
  RETURN_IF_ERROR(end_);
  ++next_out_;
  return Handle(&slot.batch, Release{this});
}

// Counts and reports the bad samples of a batch, and judges their share.
absl::Status BatchStream::TakeStock(const Slot& slot) {
  if (!slot.status.ok()) return absl::OkStatus();
  statistics_.samples += options_.plan->batch_size();
  for (const SampleReader::Result& result : slot.samples) {
    if (!result.bad_samples.empty()) ++bad_positions_;
    for (const BadSample& bad : result.bad_samples) {
      ++statistics_.bad_samples[bad.reason];
      if (options_.on_bad_sample) options_.on_bad_sample(bad);
      if (first_bad_samples_.size() < kBadSamplesInMessage) {
        first_bad_samples_.push_back(fmt::format("{} ({}: {})", bad.image, bad.reason, bad.detail));
      }
    }
  }
  const int64_t hosted_per_epoch =
      options_.plan->steps_per_epoch() * options_.plan->batch_size() * NumHosted(options_);
  const auto limit = options_.max_bad_fraction * static_cast<double>(statistics_.samples);
  if (statistics_.samples < std::min(kMinSamplesToJudge, hosted_per_epoch) ||
      static_cast<double>(bad_positions_) <= limit) {
    return absl::OkStatus();
  }
  return absl::DataLossError(fmt::format(
      "{} of {} samples are bad, more than data.max_bad_fraction = {} allows; the first are {}; "
      "check the data and data.root, or raise the limit",
      bad_positions_, statistics_.samples, options_.max_bad_fraction,
      fmt::join(first_bad_samples_, "; ")));
}

void BatchStream::Free(const Batch* batch) {
  const auto slot = std::find_if(slots_.begin(), slots_.end(),
                                 [batch](const Slot& s) { return &s.batch == batch; });
  {
    const std::lock_guard lock(mutex_);
    slot->state = Slot::State::kFree;
  }
  work_or_stop_.notify_all();
}

}  // namespace albef
