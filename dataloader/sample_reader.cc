#include "dataloader/sample_reader.h"

#include <fmt/format.h>

#include <exception>
#include <new>
#include <string>
#include <utility>

#include "common/random.h"
#include "common/status_macros.h"
#include "dataloader/caption.h"
#include "dataloader/utf8.h"

namespace albef {
namespace {

// Attempts for one place, the sample itself included. With a tenth of all samples bad, one place in
// 10^16 has no usable one.
constexpr uint32_t kMaxAttempts = 16;

// What a thread may keep of an encoded image's memory.
constexpr size_t kMaxKeptBytes = size_t{16} << 20;

absl::Status LoadOnce(const SampleSource& source, const ImageLoader& loader, const Sample& sample,
                      RandomStream random, std::span<uint8_t> image_HWC) {
  thread_local std::string bytes;
  try {
    RETURN_IF_ERROR(source.ReadImage(sample, bytes));
    const absl::Status status = loader.Load(bytes, random, image_HWC);
    if (bytes.capacity() > kMaxKeptBytes) bytes = std::string();
    return status;
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("out of memory");
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  }
}

}  // namespace

// Why the content is bad; without a reason it is good.
struct SampleReader::Fault {
  std::string reason;
  std::string detail;

  bool any() const { return !reason.empty(); }
};

absl::Status SampleReader::Read(const EpochPlan::Place& place, std::span<uint8_t> image_HWC,
                                absl::FunctionRef<bool(std::chrono::milliseconds)> pause,
                                Result& result) const {
  const auto position = static_cast<uint64_t>(place.sample_position);
  thread_local Sample sample;
  result.bad_samples.clear();
  for (uint32_t attempt = 0; attempt < kMaxAttempts; ++attempt) {
    result.sample_index = SampleIndex(place, attempt);
    options_.source->Fetch(result.sample_index, sample);
    if (attempt > 0) {
      result.bad_samples.back().substitute_index = result.sample_index;
      result.bad_samples.back().substitute = sample.ImageName();
    }
    Fault fault = ReadCaption(sample, place, attempt, result.input_ids);
    if (!fault.any()) {
      const RandomStream random(options_.seed, RandomPurpose::kImageAugmentation, position,
                                attempt);
      ASSIGN_OR_RETURN(fault, LoadImage(sample, random, image_HWC, pause));
    }
    if (!fault.any()) return absl::OkStatus();
    result.bad_samples.push_back({.position = place.sample_position,
                                  .sample_index = result.sample_index,
                                  .image = sample.ImageName(),
                                  .reason = std::move(fault.reason),
                                  .detail = std::move(fault.detail)});
  }
  const BadSample& first = result.bad_samples.front();
  return absl::DataLossError(fmt::format(
      "no usable sample for position {}: {} is bad ({}: {}), and so are {} substitutes; check the "
      "data and data.root",
      place.sample_position, first.image, first.reason, first.detail, kMaxAttempts - 1));
}

int64_t SampleReader::SampleIndex(const EpochPlan::Place& place, uint32_t attempt) const {
  const int64_t size = options_.source->size();
  if (attempt == 0) {
    return SampleOrder(options_.seed, place.epoch, size).At(place.order_position);
  }
  RandomStream random(options_.seed, RandomPurpose::kSubstitute,
                      static_cast<uint64_t>(place.sample_position), attempt);
  return static_cast<int64_t>(random.Below(static_cast<uint64_t>(size)));
}

SampleReader::Fault SampleReader::ReadCaption(const Sample& sample, const EpochPlan::Place& place,
                                              uint32_t attempt,
                                              std::vector<int64_t>& input_ids) const {
  if (sample.captions.empty()) return {"empty_caption", "the list of captions is empty"};
  RandomStream random(options_.seed, RandomPurpose::kCaptionChoice,
                      static_cast<uint64_t>(place.sample_position), attempt);
  const size_t choice = random.Below(sample.captions.size());
  const std::string& caption = sample.captions[choice];
  if (!IsValidUtf8(caption)) {
    return {"invalid_utf8", fmt::format("caption {} is not UTF-8", choice)};
  }
  thread_local std::string cleaned;
  CleanCaption(caption, options_.max_words, cleaned);
  options_.tokenizer->Tokenize(cleaned, {.max_length = options_.max_text_length}, input_ids);
  if (input_ids.size() < 2) {
    return {"empty_caption", fmt::format("caption {} has no token after cleaning", choice)};
  }
  return {};
}

absl::StatusOr<SampleReader::Fault> SampleReader::LoadImage(
    const Sample& sample, RandomStream random, std::span<uint8_t> image_HWC,
    absl::FunctionRef<bool(std::chrono::milliseconds)> pause) const {
  for (size_t attempt = 0;; ++attempt) {
    const absl::Status status =
        LoadOnce(*options_.source, *options_.image_loader, sample, random, image_HWC);
    if (status.ok()) return Fault{};
    const std::string message(status.message());
    switch (status.code()) {
      case absl::StatusCode::kNotFound:
        return Fault{"missing_image", message};
      case absl::StatusCode::kDataLoss:
        return Fault{"damaged_image", message};
      case absl::StatusCode::kInvalidArgument:
        return Fault{"invalid_image", message};
      default:
        break;
    }
    if (attempt == options_.retry_delays.size()) {
      return absl::Status(status.code(), fmt::format("cannot load image {} in {} attempts: {}",
                                                     sample.ImageName(), attempt + 1, message));
    }
    if (!pause(options_.retry_delays[attempt])) return absl::CancelledError("stopped");
  }
}

}  // namespace albef
