// A reader of Python pickles (protocols 0 to 5) that produces data and calls nothing.
//
// Where Python would import a class or call something, the result holds an inert object with the
// name, the arguments and the state (PickleValue::Kind::kObject). Only what is plain data in Python
// becomes plain data here: dict, list, tuple, set, OrderedDict and bytes.
//
// Input is hostile: every length, reference and nesting is checked, work and memory are bounded in
// the size of the input. Anything malformed or not supported is INVALID_ARGUMENT and names the
// file, the opcode and its offset.
#ifndef ALBEF_FORMATS_PICKLE_H_
#define ALBEF_FORMATS_PICKLE_H_

#include <cstddef>
#include <set>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "formats/pickle_value.h"

namespace albef {

struct PickleLimits {
  size_t max_steps = 4'000'000;  // opcodes, plus values copied by them
  int max_depth = 200;           // of nested containers
  // Values met on a walk through the result, shared ones counted each time: a pickle of 100 bytes
  // can describe a tree of 2^30 nodes.
  size_t max_walk = 100'000'000;
};

struct Pickle {
  PickleValue root;
  std::set<std::string, std::less<>> globals;  // all classes and functions it refers to
  size_t bytes = 0;                            // length of the pickle; the input may be longer
};

// Reads one pickle at the beginning of `bytes`. `name` is what errors call the file.
absl::StatusOr<Pickle> ParsePickle(std::span<const std::byte> bytes, std::string_view name,
                                   const PickleLimits& limits = {});

}  // namespace albef

#endif  // ALBEF_FORMATS_PICKLE_H_
