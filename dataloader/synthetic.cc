#include "dataloader/synthetic.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "common/file.h"
#include "common/random.h"
#include "common/status_macros.h"
#include "dataloader/synthetic_image.h"
#include "dataloader/synthetic_scene.h"

namespace albef {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxPairs = 9'999'999;  // file names have seven digits
constexpr int kJpegQuality = 92;
constexpr int kTrainCaptions = 5;
constexpr int kTestCaptions = 1;
// Test images draw from positions of their own.
constexpr uint64_t kFirstTestPosition = uint64_t{1} << 40;
// Lanes of a position; the scene's attempts come after these.
constexpr uint32_t kCaptionLane = 0;
constexpr uint32_t kImageLane = 1;
constexpr uint32_t kFirstSceneLane = 2;
// So often a scene that was there before is drawn again.
constexpr uint32_t kSceneAttempts = 1000;

constexpr char kManifestName[] = "synthetic.json";
constexpr char kIncompleteName[] = "synthetic.incomplete";

struct Pair {
  uint64_t position = 0;
  SyntheticScene scene;
  std::string image;  // relative to the dataset's folder
  std::vector<std::string> captions;
};

// The small files as they will be, and what the images are to show.
struct Plan {
  std::vector<Pair> pairs;
  std::string train_json;
  std::string test_json;
  std::string vocabulary;
  std::string manifest;
  SyntheticDataset dataset;
};

absl::Status CheckOptions(const SyntheticOptions& options, int64_t test_pairs) {
  const auto check = [](std::string_view what, int64_t value, int64_t low, int64_t high) {
    if (low <= value && value <= high) return absl::OkStatus();
    return absl::InvalidArgumentError(
        fmt::format("{} must be from {} to {}, not {}", what, low, high, value));
  };
  RETURN_IF_ERROR(check("pairs", options.pairs, 1, kMaxPairs));
  RETURN_IF_ERROR(check("test pairs", test_pairs, 1, 100'000));
  RETURN_IF_ERROR(check("image size", options.size_px, 16, 4096));
  return check("threads", options.threads, 0, 1024);
}

// What makes this dataset: written last, compared when the folder is met again.
std::string ManifestJson(const SyntheticOptions& options, int64_t test_pairs) {
  const nlohmann::ordered_json manifest = {{"format", 1},
                                           {"pairs", options.pairs},
                                           {"test_pairs", test_pairs},
                                           {"seed", options.seed},
                                           {"size_px", options.size_px}};
  return manifest.dump();
}

std::string AnnotationJson(std::span<const Pair> pairs) {
  std::string json = "[\n";
  for (const Pair& pair : pairs) {
    const nlohmann::ordered_json entry = {{"image", pair.image}, {"caption", pair.captions}};
    json += entry.dump();
    json += &pair == &pairs.back() ? "\n" : ",\n";
  }
  return json + "]\n";
}

// Draws scenes of the test split, which are all different.
absl::StatusOr<std::vector<Pair>> DrawTestPairs(uint64_t seed, int64_t count) {
  std::vector<Pair> pairs;
  std::set<SyntheticScene> scenes;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t position = kFirstTestPosition + static_cast<uint64_t>(i);
    bool found = false;
    for (uint32_t attempt = 0; attempt < kSceneAttempts && !found; ++attempt) {
      RandomStream random(seed, RandomPurpose::kSynthetic, position, kFirstSceneLane + attempt);
      SyntheticScene scene = DrawSyntheticScene(random);
      found = scenes.insert(scene).second;
      if (found) pairs.push_back({position, std::move(scene), "", {}});
    }
    if (!found) return absl::InvalidArgumentError("too many test pairs: scenes repeat");
  }
  return pairs;
}

// Draws training scenes that are not in the test split; they repeat only where new ones are rare.
std::vector<Pair> DrawTrainPairs(uint64_t seed, int64_t count, std::span<const Pair> test_pairs) {
  std::set<SyntheticScene> test_scenes;
  for (const Pair& pair : test_pairs) test_scenes.insert(pair.scene);
  std::set<SyntheticScene> scenes;
  std::vector<Pair> pairs;
  pairs.reserve(static_cast<size_t>(count));
  for (uint64_t position = 0; position < static_cast<uint64_t>(count); ++position) {
    for (uint32_t attempt = 0;; ++attempt) {
      RandomStream random(seed, RandomPurpose::kSynthetic, position, kFirstSceneLane + attempt);
      SyntheticScene scene = DrawSyntheticScene(random);
      if (test_scenes.contains(scene)) continue;
      if (!scenes.insert(scene).second && attempt < kSceneAttempts) continue;
      pairs.push_back({position, std::move(scene), "", {}});
      break;
    }
  }
  return pairs;
}

void DrawCaptions(std::string_view split, int count, uint64_t seed, std::vector<Pair>& pairs) {
  for (size_t i = 0; i < pairs.size(); ++i) {
    RandomStream random(seed, RandomPurpose::kSynthetic, pairs[i].position, kCaptionLane);
    pairs[i].captions = DrawSyntheticCaptions(pairs[i].scene, count, random);
    pairs[i].image = fmt::format("images/{}-{:07}.jpg", split, i);
  }
}

absl::StatusOr<Plan> MakePlan(const SyntheticOptions& options) {
  const int64_t test_count =
      options.test_pairs.value_or(std::clamp<int64_t>(options.pairs / 10, 10, 1000));
  RETURN_IF_ERROR(CheckOptions(options, test_count));
  ASSIGN_OR_RETURN(std::vector<Pair> test, DrawTestPairs(options.seed, test_count));
  std::vector<Pair> train = DrawTrainPairs(options.seed, options.pairs, test);
  DrawCaptions("test", kTestCaptions, options.seed, test);
  DrawCaptions("train", kTrainCaptions, options.seed, train);

  Plan plan;
  const std::vector<std::string> vocabulary = SyntheticVocabulary();
  plan.train_json = AnnotationJson(train);
  plan.test_json = AnnotationJson(test);
  for (const std::string& line : vocabulary) plan.vocabulary += line + "\n";
  plan.manifest = ManifestJson(options, test_count);
  plan.dataset = {options.pairs, test_count, static_cast<int64_t>(vocabulary.size()), false};
  plan.pairs = std::move(train);
  plan.pairs.insert(plan.pairs.end(), std::make_move_iterator(test.begin()),
                    std::make_move_iterator(test.end()));
  return plan;
}

// OK when the folder holds every file of the plan; the small ones are compared byte by byte.
absl::Status CheckComplete(const fs::path& directory, const Plan& plan) {
  for (const auto& [name, expected] :
       {std::pair<const char*, const std::string&>(kManifestName, plan.manifest),
        {"train.json", plan.train_json},
        {"test.json", plan.test_json},
        {"vocab.txt", plan.vocabulary}}) {
    ASSIGN_OR_RETURN(const std::string found, ReadFile(directory / name));
    if (found != expected) {
      return absl::FailedPreconditionError(fmt::format("{} differs from what these options give{}",
                                                       name,
                                                       name == kManifestName ? ": " + found : ""));
    }
  }
  for (const Pair& pair : plan.pairs) {
    std::error_code error;
    if (fs::file_size(directory / pair.image, error) == 0 || error) {
      return absl::FailedPreconditionError(fmt::format("{} is missing or empty", pair.image));
    }
  }
  return absl::OkStatus();
}

absl::Status WriteFile(const fs::path& path, std::string_view content) {
  FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  RETURN_IF_ERROR(WriteAll(fd.get(), std::as_bytes(std::span(content)), path));
  return fd.Close(path);
}

absl::Status WriteImage(const fs::path& directory, const SyntheticOptions& options,
                        const Pair& pair) {
  RandomStream random(options.seed, RandomPurpose::kSynthetic, pair.position, kImageLane);
  const Image image = DrawSyntheticImage(pair.scene, options.size_px, random);
  ASSIGN_OR_RETURN(const std::string jpeg, EncodeJpeg(image.view(), kJpegQuality));
  return WriteFile(directory / pair.image, jpeg);
}

// The first error ends all threads.
absl::Status WriteImages(const fs::path& directory, const SyntheticOptions& options,
                         std::span<const Pair> pairs) {
  std::atomic<size_t> next = 0;
  std::mutex mutex;
  absl::Status first_error;  // guarded by mutex
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < pairs.size(); i = next.fetch_add(1)) {
      absl::Status status = WriteImage(directory, options, pairs[i]);
      if (status.ok()) continue;
      next.store(pairs.size());
      const std::lock_guard lock(mutex);
      first_error.Update(std::move(status));
    }
  };
  const int threads = options.threads > 0
                          ? options.threads
                          : static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  {
    std::vector<std::jthread> others;
    for (int i = 1; i < threads; ++i) others.emplace_back(work);
    work();
  }
  return first_error;
}

absl::Status RemoveLeavings(const fs::path& directory) {
  for (const char* name : {kManifestName, "train.json", "test.json", "vocab.txt", "images"}) {
    std::error_code error;
    fs::remove_all(directory / name, error);
    if (error) return ErrnoStatus(error.value(), "remove", directory / name);
  }
  return absl::OkStatus();
}

// The file that marks the folder as incomplete, locked against a second writer.
absl::StatusOr<FileDescriptor> MarkIncomplete(const fs::path& directory) {
  const fs::path path = directory / kIncompleteName;
  FileDescriptor fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
  if (!fd.valid()) return ErrnoStatus(errno, "create", path);
  const bool locked = ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0;
  if (!locked && errno != EWOULDBLOCK) return ErrnoStatus(errno, "lock", path);
  // A writer that was about to finish may have removed the file that was opened here.
  if (!locked || !fs::exists(path)) {
    return absl::FailedPreconditionError(
        fmt::format("{}: another process is writing this dataset", directory.string()));
  }
  return fd;
}

}  // namespace

absl::StatusOr<SyntheticDataset> WriteSyntheticDataset(const fs::path& directory,
                                                       const SyntheticOptions& options) {
  ASSIGN_OR_RETURN(Plan plan, MakePlan(options));
  RETURN_IF_ERROR(CreateDirectories(directory));
  std::error_code error;
  const bool empty = fs::is_empty(directory, error);
  if (error) return ErrnoStatus(error.value(), "list", directory);
  if (!empty && !fs::exists(directory / kIncompleteName)) {
    const absl::Status complete = CheckComplete(directory, plan);
    if (!complete.ok()) {
      return absl::FailedPreconditionError(fmt::format(
          "{}: not empty, and not the dataset of these options ({}); choose another folder, or "
          "remove this one",
          directory.string(), std::string(complete.message())));
    }
    plan.dataset.already_there = true;
    return plan.dataset;
  }

  ASSIGN_OR_RETURN(const FileDescriptor incomplete, MarkIncomplete(directory));
  RETURN_IF_ERROR(RemoveLeavings(directory));
  RETURN_IF_ERROR(CreateDirectories(directory / "images"));
  RETURN_IF_ERROR(WriteImages(directory, options, plan.pairs));
  // One call makes all images durable, before anything says that they are there.
  if (::syncfs(incomplete.get()) != 0) return ErrnoStatus(errno, "sync", directory);
  RETURN_IF_ERROR(WriteFileAtomic(directory / "vocab.txt", plan.vocabulary));
  RETURN_IF_ERROR(WriteFileAtomic(directory / "test.json", plan.test_json));
  RETURN_IF_ERROR(WriteFileAtomic(directory / kManifestName, plan.manifest));
  RETURN_IF_ERROR(WriteFileAtomic(directory / "train.json", plan.train_json));
  const fs::path marker = directory / kIncompleteName;
  if (::unlink(marker.c_str()) != 0) return ErrnoStatus(errno, "remove", marker);
  RETURN_IF_ERROR(SyncDirectory(directory));
  return plan.dataset;
}

}  // namespace albef
