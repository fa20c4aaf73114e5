// Writes the seeds of a fuzz target into a folder, for a search with coverage to begin from.
#include <fmt/format.h>

#include <cstdio>
#include <filesystem>

#include "common/file.h"
#include "tests/formats/fuzz/seeds.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    fmt::print(stderr, "usage: {} FOLDER\n", argv[0]);
    return 64;
  }
  int number = 0;
  for (const std::string& seed : albef::FuzzSeeds()) {
    const auto path = std::filesystem::path(argv[1]) / fmt::format("seed-{}", number++);
    if (const auto status = albef::WriteFileAtomic(path, seed); !status.ok()) {
      fmt::print(stderr, "{}\n", std::string(status.message()));
      return 1;
    }
  }
  return 0;
}
