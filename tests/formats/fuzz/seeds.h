// Small valid inputs to begin a search from; each fuzz target has its own.
#ifndef ALBEF_TESTS_FORMATS_FUZZ_SEEDS_H_
#define ALBEF_TESTS_FORMATS_FUZZ_SEEDS_H_

#include <string>
#include <vector>

namespace albef {

std::vector<std::string> FuzzSeeds();

}  // namespace albef

#endif  // ALBEF_TESTS_FORMATS_FUZZ_SEEDS_H_
