// The index of annotations at scale: how long it takes to make and to open, its size, the memory of
// the process that makes it and of workers that read it together.
//
//   data_index [--pairs N] [--readers N] [--directory DIR] [--of N]
//
// Writes a synthetic annotation file in the authors' format (removed at the end), with texts as
// long as those of the authors' 14 million pairs, and measures each phase in a process of its own.
// What grows with the number of pairs is extrapolated to --of pairs with the formula that is
// printed.
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "common/clock.h"
#include "common/file.h"
#include "common/random.h"
#include "dataloader/indexed_samples.h"
#include "dataloader/sample_order.h"

namespace albef {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr double kMiB = 1 << 20;

void Fail(const absl::Status& status) {
  fmt::print(stderr, "data_index: {}\n", std::string(status.message()));
  std::exit(1);
}

// Captions of 4 to 17 words, image paths like those of Conceptual Captions: about 130 bytes a pair.
void WriteAnnotations(const fs::path& path, int64_t pairs) {
  static constexpr const char* kWords[] = {
      "a",        "person",     "standing", "on",  "the",      "beach", "with",     "surfboard",
      "mountain", "photograph", "near",     "old", "building", "in",    "festival", "blue"};
  absl::StatusOr<AtomicFile> file = AtomicFile::Create(path);
  if (!file.ok()) Fail(file.status());
  std::string text = "[";
  for (int64_t i = 0; i < pairs; ++i) {
    RandomStream random(7, RandomPurpose::kSynthetic, static_cast<uint64_t>(i));
    text += fmt::format("{}{{\"image\": \"cc12m/images/{:05}/{:09}.jpg\", \"caption\": \"",
                        i == 0 ? "" : ", ", i / 10'000, i);
    for (uint64_t n = 4 + random.Below(14); n > 0; --n) {
      text += kWords[random.Below(std::size(kWords))];
      text += n > 1 ? " " : "\"}";
    }
    if (text.size() < size_t{1} << 20) continue;
    if (const absl::Status status = file->Write(text); !status.ok()) Fail(status);
    text.clear();
  }
  absl::Status status = file->Write(text + "]");
  if (status.ok()) status = file->Commit();
  if (!status.ok()) Fail(status);
}

// Runs `body` in a child, which prints its findings; its peak of resident memory in MiB.
template <typename Body>
double InChild(Body body) {
  std::fflush(stdout);
  const pid_t pid = ::fork();
  if (pid == 0) {
    body();
    std::fflush(stdout);
    ::_exit(0);
  }
  int status = 0;
  rusage usage{};
  if (::wait4(pid, &status, 0, &usage) != pid || status != 0) std::exit(1);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// A line of /proc/self/smaps_rollup, in MiB.
double MemoryOf(const std::string& key) {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(key)) return std::strtod(line.c_str() + key.size() + 1, nullptr) / 1024;
  }
  return 0;
}

IndexedSamples Open(const fs::path& path, bool rebuild) {
  absl::StatusOr<IndexedSamples> samples =
      IndexedSamples::Open({&path, 1}, "", {.rebuild = rebuild});
  if (!samples.ok()) Fail(samples.status());
  return *std::move(samples);
}

struct Arguments {
  int64_t pairs = 2'000'000;
  int64_t of = 14'000'000;
  int readers = 4;
  fs::path directory = fs::temp_directory_path();
};

int Measure(const Arguments& arguments) {
  const fs::path path = arguments.directory / fmt::format("data_index-{}.json", ::getpid());
  const fs::path index = path.string() + ".albef-index";
  WriteAnnotations(path, arguments.pairs);
  const auto file_bytes = static_cast<double>(fs::file_size(path));
  fmt::print("{} pairs, {:.1f} MiB of JSON\n", arguments.pairs, file_bytes / kMiB);
  const double empty = InChild([] {});

  Clock::time_point start = Clock::now();
  const double build_memory = InChild([&] { Open(path, true); });
  const double build_s = SecondsSince(start);
  const auto index_bytes = static_cast<double>(fs::file_size(index));
  fmt::print(
      "make   {:.2f} s, {:.0f} MiB/s, {:.1f} MiB of memory at the peak ({:.1f} of an idle "
      "process)\n",
      build_s, file_bytes / kMiB / build_s, build_memory, empty);
  fmt::print("index  {:.1f} MiB, {:.1f} bytes a pair\n", index_bytes / kMiB,
             index_bytes / static_cast<double>(arguments.pairs));

  double open_s = 0;
  start = Clock::now();
  const double open_memory = InChild([&] { Open(path, false); });
  open_s = SecondsSince(start);
  fmt::print("open   {:.3f} s with all checksums, {:.1f} MiB at the peak\n", open_s, open_memory);

  std::vector<pid_t> readers;
  std::fflush(stdout);
  for (int r = 0; r < arguments.readers; ++r) {
    readers.push_back(::fork());
    if (readers.back() != 0) continue;
    const IndexedSamples samples = Open(path, false);
    const SampleOrder order(static_cast<uint64_t>(r), 0, samples.size());
    Sample sample;
    const Clock::time_point begin = Clock::now();
    for (int64_t i = 0; i < samples.size(); ++i) samples.Fetch(order.At(i), sample);
    const double ns = 1e9 * SecondsSince(begin) / static_cast<double>(samples.size());
    fmt::print(
        "reader {}: {:.0f} ns a sample in training order; all samples read: {:.1f} MiB "
        "resident, {:.1f} MiB of them its own\n",
        r, ns, MemoryOf("Rss:"), MemoryOf("Private_Dirty:"));
    std::fflush(stdout);
    ::_exit(0);
  }
  for (const pid_t reader : readers) ::waitpid(reader, nullptr, 0);

  const double factor = static_cast<double>(arguments.of) / static_cast<double>(arguments.pairs);
  fmt::print(
      "\n{} pairs = {} pairs x {:g}, and all of these grow with the pairs:\n"
      "  make  {:.2f} s x {:g} = {:.0f} s   (memory stays at {:.0f} MiB + 16 bytes per 1024 "
      "pairs)\n"
      "  index {:.1f} MiB x {:g} = {:.2f} GiB\n"
      "  open  {:.3f} s x {:g} = {:.1f} s\n",
      arguments.of, arguments.pairs, factor, build_s, factor, build_s * factor, build_memory,
      index_bytes / kMiB, factor, index_bytes * factor / (kMiB * 1024), open_s, factor,
      open_s * factor);
  fs::remove(path);
  fs::remove(index);
  return 0;
}

}  // namespace
}  // namespace albef

int main(int argc, char** argv) {
  CLI::App app("The index of annotations at scale", "data_index");
  albef::Arguments arguments;
  app.add_option("--pairs", arguments.pairs, "Of the synthetic file")->check(CLI::PositiveNumber);
  app.add_option("--of", arguments.of, "Extrapolate to so many pairs")->check(CLI::PositiveNumber);
  app.add_option("--readers", arguments.readers, "Processes that read the index together");
  app.add_option("--directory", arguments.directory, "Where the files go for the time being");
  CLI11_PARSE(app, argc, argv);
  return albef::Measure(arguments);
}
