// Throughput of the data pipeline on one thread, whole and by stage, at 256 pixels.
//
//   image_pipeline [--benchmark_… flags] FOLDER [ANNOTATIONS VOCABULARY]
//
// FOLDER holds JPEG, PNG or WebP files; the captions of ANNOTATIONS are cleaned and tokenized.
// items_per_second counts pictures or captions (a training pair has one of each). "entropy" is what
// libjpeg needs to read the bits of the whole picture and nothing else: no decoder is faster.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <cstddef>
#include <cstdio>  // jpeglib.h needs it before
//
#include <jpeglib.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/file.h"
#include "dataloader/caption.h"
#include "dataloader/image_decode.h"
#include "dataloader/image_transform.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/normalize.h"
#include "dataloader/resize.h"
#include "dataloader/wordpiece.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr int kImageRes = 256;
// Decoded pictures are kept for the stages after decoding: as many as fit in a cache or two.
constexpr size_t kNumDecoded = 64;

struct Corpus {
  std::vector<fs::path> paths;
  std::vector<std::string> contents;
  std::vector<Image> decoded;
};

std::span<const uint8_t> AsBytes(const std::string& content) {
  return {reinterpret_cast<const uint8_t*>(content.data()), content.size()};
}

absl::StatusOr<Corpus> ReadCorpus(const fs::path& folder) {
  Corpus corpus;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) corpus.paths.push_back(entry);
  if (error) return ErrnoStatus(error.value(), "list", folder);
  if (corpus.paths.empty()) return absl::NotFoundError(folder.string() + ": no files");
  std::ranges::sort(corpus.paths);
  for (const fs::path& path : corpus.paths) {
    absl::StatusOr<std::string> content = ReadFile(path);
    if (!content.ok()) return content.status();
    corpus.contents.push_back(*std::move(content));
    // Evenly from all of the folder.
    if (corpus.contents.size() * kNumDecoded / corpus.paths.size() <= corpus.decoded.size())
      continue;
    const absl::Status status =
        ReadImage(path, ImageCompat::kCorrected, corpus.decoded.emplace_back());
    if (!status.ok()) return status;
  }
  return corpus;
}

RandomStream Stream(uint64_t position) {
  return RandomStream(1, RandomPurpose::kImageAugmentation, position);
}

void Count(benchmark::State& state, uint64_t pictures) {
  state.SetItemsProcessed(static_cast<int64_t>(pictures));
}

void BenchmarkLoad(benchmark::State& state, const ImageLoader& loader, const Corpus& corpus) {
  std::vector<uint8_t> output_HWC(kImageRes * kImageRes * 3);
  uint64_t i = 0;
  for (auto _ : state) {
    const absl::Status status =
        LoadImageFile(loader, corpus.paths[i % corpus.paths.size()], Stream(i), output_HWC);
    if (!status.ok()) state.SkipWithError(std::string(status.message()).c_str());
    ++i;
  }
  Count(state, i);
}

void BenchmarkDecode(benchmark::State& state, const Corpus& corpus) {
  Image image;
  uint64_t i = 0;
  for (auto _ : state) {
    const std::string& content = corpus.contents[i++ % corpus.contents.size()];
    benchmark::DoNotOptimize(DecodeImage(AsBytes(content), {}, image));
  }
  Count(state, i);
}

// The part that a training crop needs.
void BenchmarkDecodePart(benchmark::State& state, const TrainingImageLoader& loader,
                         const Corpus& corpus) {
  Image image;
  Box part;
  uint64_t i = 0;
  for (auto _ : state) {
    const std::string& content = corpus.contents[i % corpus.contents.size()];
    benchmark::DoNotOptimize(DecodeImagePart(
        AsBytes(content), {},
        [&](int height, int width) { return loader.Sample(height, width, Stream(i)).crop; }, image,
        part));
    ++i;
  }
  Count(state, i);
}

void BenchmarkEntropy(benchmark::State& state, const Corpus& corpus) {
  jpeg_decompress_struct info;
  jpeg_error_mgr errors;
  info.err = jpeg_std_error(&errors);
  jpeg_create_decompress(&info);
  uint64_t i = 0;
  for (auto _ : state) {
    const std::span<const uint8_t> bytes = AsBytes(corpus.contents[i++ % corpus.contents.size()]);
    jpeg_mem_src(&info, bytes.data(), bytes.size());
    jpeg_read_header(&info, TRUE);
    benchmark::DoNotOptimize(jpeg_read_coefficients(&info));
    jpeg_abort_decompress(&info);
  }
  jpeg_destroy_decompress(&info);
  Count(state, i);
}

void BenchmarkRead(benchmark::State& state, const Corpus& corpus) {
  std::string content;
  uint64_t i = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(
        ReadFileInto(corpus.paths[i++ % corpus.paths.size()].native(), 1 << 30, content));
  }
  Count(state, i);
}

void BenchmarkCaption(benchmark::State& state, const std::vector<std::string>& captions,
                      const WordPieceTokenizer& tokenizer) {
  std::string cleaned;
  std::vector<int64_t> ids;
  uint64_t i = 0;
  for (auto _ : state) {
    CleanCaption(captions[i++ % captions.size()], 30, cleaned);
    tokenizer.Tokenize(cleaned, {.max_length = 25}, ids);
    benchmark::DoNotOptimize(ids.data());
  }
  Count(state, i);
}

void BenchmarkApply(benchmark::State& state, const TrainingImageLoader& loader,
                    const Corpus& corpus) {
  Image output;
  output.Resize(kImageRes, kImageRes);
  uint64_t i = 0;
  for (auto _ : state) {
    const Image& source = corpus.decoded[i % corpus.decoded.size()];
    loader.Apply(loader.Sample(source.height, source.width, Stream(i++)), source.view(),
                 output.mutable_view());
    benchmark::DoNotOptimize(output.rgb_HWC.data());
  }
  Count(state, i);
}

// What the device does in training, as one pass on the CPU.
void BenchmarkNormalize(benchmark::State& state, const Corpus& corpus) {
  Image image;
  image.Resize(kImageRes, kImageRes);
  const Image& source = corpus.decoded.front();
  CropAndResize(source.view(), {.height = source.height, .width = source.width},
                image.mutable_view());
  std::vector<float> output(image.rgb_HWC.size());
  uint64_t i = 0;
  for (auto _ : state) {
    Normalize(image.view(), output);
    benchmark::DoNotOptimize(output.data());
    ++i;
  }
  Count(state, i);
}

void BenchmarkOp(benchmark::State& state, AugmentOp op, const Corpus& corpus) {
  Image image;
  image.Resize(kImageRes, kImageRes);
  const Image& source = corpus.decoded.front();
  CropAndResize(source.view(), {.height = source.height, .width = source.width},
                image.mutable_view());
  std::vector<uint8_t> scratch;
  uint64_t i = 0;
  for (auto _ : state) {
    ApplyAugment({.op = op}, ImageCompat::kCorrected, image.mutable_view(), scratch);
    benchmark::DoNotOptimize(image.rgb_HWC.data());
    ++i;
  }
  Count(state, i);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (argc != 2 && argc != 4) {
    fmt::print(stderr, "usage: {} [--benchmark_… flags] FOLDER [ANNOTATIONS VOCABULARY]\n",
               argv[0]);
    return 2;
  }
  const absl::StatusOr<Corpus> corpus = ReadCorpus(argv[1]);
  if (!corpus.ok()) {
    fmt::print(stderr, "{}\n", std::string(corpus.status().message()));
    return 1;
  }
  const auto training = TrainingImageLoader::Create({.image_res = kImageRes});
  const auto plain = TrainingImageLoader::Create({.image_res = kImageRes, .augment = false});
  const auto evaluation = EvaluationImageLoader::Create({.image_res = kImageRes});

  const auto add = [](const char* name, auto run) { benchmark::RegisterBenchmark(name, run); };
  add("training", [&](auto& state) { BenchmarkLoad(state, *training, *corpus); });
  add("evaluation", [&](auto& state) { BenchmarkLoad(state, *evaluation, *corpus); });
  add("read", [&](auto& state) { BenchmarkRead(state, *corpus); });
  if (fs::path(corpus->paths[0]).extension() == ".jpg") {
    add("entropy", [&](auto& state) { BenchmarkEntropy(state, *corpus); });
  }
  add("decode", [&](auto& state) { BenchmarkDecode(state, *corpus); });
  add("decode part", [&](auto& state) { BenchmarkDecodePart(state, *training, *corpus); });
  add("crop+resize+flip", [&](auto& state) { BenchmarkApply(state, *plain, *corpus); });
  add("crop+resize+flip+augment", [&](auto& state) { BenchmarkApply(state, *training, *corpus); });
  add("normalise", [&](auto& state) { BenchmarkNormalize(state, *corpus); });
  add("rotate", [&](auto& state) { BenchmarkOp(state, AugmentOp::kRotate, *corpus); });
  add("sharpness", [&](auto& state) { BenchmarkOp(state, AugmentOp::kSharpness, *corpus); });
  add("equalize", [&](auto& state) { BenchmarkOp(state, AugmentOp::kEqualize, *corpus); });
  add("brightness", [&](auto& state) { BenchmarkOp(state, AugmentOp::kBrightness, *corpus); });
  std::vector<std::string> captions;
  std::optional<WordPieceTokenizer> tokenizer;
  if (argc == 4) {
    const fs::path annotations = argv[2];
    const auto samples = IndexedSamples::Open({&annotations, 1}, "");
    auto vocabulary = Vocabulary::Load(argv[3]);
    for (const absl::Status& status : {samples.status(), vocabulary.status()}) {
      if (status.ok()) continue;
      fmt::print(stderr, "{}\n", std::string(status.message()));
      return 1;
    }
    for (int64_t i = 0; i < samples->size(); ++i) {
      for (std::string& caption : samples->Get(i).captions) captions.push_back(std::move(caption));
    }
    tokenizer.emplace(*std::move(vocabulary));
    add("caption", [&](auto& state) { BenchmarkCaption(state, captions, *tokenizer); });
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) { return albef::Main(argc, argv); }
