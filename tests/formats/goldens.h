// Where the golden fixtures are: $ALBEF_GOLDENS, or the project's own copy.
#ifndef ALBEF_TESTS_FORMATS_GOLDENS_H_
#define ALBEF_TESTS_FORMATS_GOLDENS_H_

#include <cstdlib>
#include <filesystem>

namespace albef {

inline std::filesystem::path GoldenRoot() {
  const char* root = std::getenv("ALBEF_GOLDENS");
  return root != nullptr ? root : "tests/golden";
}

}  // namespace albef

#endif  // ALBEF_TESTS_FORMATS_GOLDENS_H_
