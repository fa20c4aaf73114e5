// Deterministic mutations of valid inputs, for the tests that run fuzz targets in every build.
#ifndef ALBEF_TESTS_FUZZ_MUTATION_H_
#define ALBEF_TESTS_FUZZ_MUTATION_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "common/random.h"

namespace albef {

struct MutationOptions {
  uint64_t max_mutations = 5;  // of one input; at least 1
  // Share of the mutations that begin in the first 64 bytes, where a format may have its headers.
  double share_at_start = 0;
};

// A copy of seeds[seed] with 1 to `max_mutations` mutations; a function of the arguments and the
// place of `random` alone. Cannot fail; safe to call from any thread.
std::string Mutated(std::span<const std::string> seeds, size_t seed, const MutationOptions& options,
                    RandomStream& random);

// Calls the fuzz target that is linked in. It gets a copy of exactly this size, so that
// AddressSanitizer sees the first byte read beyond it. As safe for threads as the target.
void RunFuzzTarget(const std::string& content);

}  // namespace albef

#endif  // ALBEF_TESTS_FUZZ_MUTATION_H_
