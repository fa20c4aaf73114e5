#include "tools/data_scan.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <limits>
#include <mutex>
#include <span>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>

#include "common/status_macros.h"
#include "dataloader/caption.h"
#include "dataloader/image_decode.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

// Empty when the status is not the content's fault.
std::string_view ImageFaultReason(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kNotFound:
      return "missing_image";
    case absl::StatusCode::kDataLoss:
      return "damaged_image";
    case absl::StatusCode::kInvalidArgument:
      return "invalid_image";
    default:
      return {};
  }
}

absl::Status ReadSampleImage(const SampleSource& source, const Sample& sample, ImageCompat compat,
                             std::string& bytes, Image& image) {
  RETURN_IF_ERROR(source.ReadImage(sample, bytes));
  const std::span encoded(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  const absl::Status status = DecodeImage(encoded, {.compat = compat}, image);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      fmt::format("{}: {}", sample.ImageName(), std::string(status.message())));
}

// Decodes the images of some samples. The status of each, OK or a fault of its content.
absl::StatusOr<std::vector<absl::Status>> ReadImages(const SampleSource& source,
                                                     const std::vector<int64_t>& samples,
                                                     const DataScanOptions& options) {
  std::vector<absl::Status> statuses(samples.size());
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  absl::Status trouble;  // guarded by mutex
  const auto work = [&] {
    Sample sample;
    std::string bytes;
    Image image;
    for (size_t i = next.fetch_add(1); i < samples.size(); i = next.fetch_add(1)) {
      source.Fetch(samples[i], sample);
      statuses[i] = ReadSampleImage(source, sample, options.compat, bytes, image);
      if (statuses[i].ok() || !ImageFaultReason(statuses[i]).empty()) continue;
      next.store(samples.size());
      const std::lock_guard lock(mutex);
      trouble.Update(statuses[i]);
    }
  };
  {
    std::vector<std::jthread> others;
    for (int i = 1; i < options.num_threads; ++i) others.emplace_back(work);
    work();
  }
  RETURN_IF_ERROR(trouble);
  return statuses;
}

class Scanner {
 public:
  Scanner(const WordPieceTokenizer& tokenizer, const DataScanOptions& options)
      : tokenizer_(tokenizer), options_(options) {}

  // Once for each image, before its samples' captions.
  void AddImage(int64_t sample_index, const std::string& image, const absl::Status& status) {
    ++scan_.num_images;
    if (status.ok()) return;
    ++scan_.num_bad_images;
    AddFault({sample_index, image, std::string(ImageFaultReason(status)),
              std::string(status.message())});
  }

  void AddSample(int64_t sample_index, const Sample& sample, bool image_is_bad) {
    ++scan_.num_samples;
    const std::string image = sample.ImageName();
    const size_t num_captions = sample.captions.size();
    if (num_captions == 0) {
      AddFault({sample_index, image, "empty_caption", "the list of captions is empty"});
    }
    size_t num_bad = 0;
    for (size_t i = 0; i < num_captions; ++i) {
      const DataFault fault = JudgeCaption(sample.captions[i], i);
      if (fault.reason.empty()) continue;
      ++num_bad;
      AddFault({sample_index, image, fault.reason, fault.detail});
    }
    scan_.num_captions += static_cast<int64_t>(num_captions);
    scan_.num_bad_captions += static_cast<int64_t>(num_bad);
    bad_samples_ += image_is_bad || num_captions == 0
                        ? 1.0
                        : static_cast<double>(num_bad) / static_cast<double>(num_captions);
  }

  DataScan Finish() && {
    if (scan_.num_samples > 0) {
      scan_.bad_fraction = bad_samples_ / static_cast<double>(scan_.num_samples);
    }
    return std::move(scan_);
  }

 private:
  // Only reason and detail are set, and those only when the caption is bad.
  DataFault JudgeCaption(const std::string& caption, size_t index) {
    if (!IsValidUtf8(caption)) {
      return {0, "", "invalid_utf8", fmt::format("caption {} is not UTF-8", index)};
    }
    const std::vector<int64_t> whole =
        tokenizer_.Tokenize(CleanCaption(caption, std::numeric_limits<int>::max()), {});
    if (whole.size() < 2) {
      return {0, "", "empty_caption", fmt::format("caption {} has no token after cleaning", index)};
    }
    const std::vector<int64_t> used = tokenizer_.Tokenize(CleanCaption(caption, options_.max_words),
                                                          {.max_length = options_.max_text_length});
    scan_.caption_tokens.Add(static_cast<int64_t>(whole.size()));
    scan_.num_truncated += used.size() < whole.size();
    scan_.num_pieces += static_cast<int64_t>(whole.size()) - 1;
    scan_.num_unknown += std::count(whole.begin(), whole.end(), tokenizer_.vocabulary().unk_id());
    return {};
  }

  void AddFault(DataFault fault) {
    ++scan_.faults[fault.reason];
    if (scan_.examples.size() < options_.max_examples) scan_.examples.push_back(std::move(fault));
  }

  const WordPieceTokenizer& tokenizer_;
  const DataScanOptions& options_;
  DataScan scan_;
  double bad_samples_ = 0;
};

}  // namespace

double Histogram::Mean() const {
  if (total_ == 0) return 0;
  double sum = 0;
  for (const auto& [value, count] : counts_) {
    sum += static_cast<double>(value) * static_cast<double>(count);
  }
  return sum / static_cast<double>(total_);
}

int64_t Histogram::Percentile(double share) const {
  int64_t seen = 0;
  for (const auto& [value, count] : counts_) {
    seen += count;
    if (static_cast<double>(seen) >= share * static_cast<double>(total_)) return value;
  }
  return 0;
}

absl::StatusOr<DataScan> ScanData(const SampleSource& source, const WordPieceTokenizer& tokenizer,
                                  const DataScanOptions& options) {
  const int64_t num_samples =
      std::min(source.size(), options.limit.value_or(std::numeric_limits<int64_t>::max()));
  // Samples may share an image (one row per caption): each is decoded once.
  std::vector<int64_t> first_samples;  // of each image
  std::vector<size_t> image_of_sample;
  std::unordered_map<std::string, size_t> image_of_name;
  Sample sample;
  for (int64_t i = 0; i < num_samples; ++i) {
    source.Fetch(i, sample);
    const auto [known, is_new] = image_of_name.emplace(sample.ImageName(), first_samples.size());
    if (is_new) first_samples.push_back(i);
    image_of_sample.push_back(known->second);
  }
  ASSIGN_OR_RETURN(const std::vector<absl::Status> statuses,
                   ReadImages(source, first_samples, options));

  Scanner scanner(tokenizer, options);
  size_t num_images = 0;
  for (int64_t i = 0; i < num_samples; ++i) {
    source.Fetch(i, sample);
    const size_t image = image_of_sample[static_cast<size_t>(i)];
    if (image == num_images) {
      scanner.AddImage(i, sample.ImageName(), statuses[image]);
      ++num_images;
    }
    scanner.AddSample(i, sample, !statuses[image].ok());
  }
  return std::move(scanner).Finish();
}

}  // namespace albef
