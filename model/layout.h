// Where every trainable parameter lies in the flat arenas: the one table that the optimizer, the
// momentum update, reduction buckets, checkpoints, sync and digests share (design §4, Arena).
//
// Order: parameters without weight decay, then those with it, each in the order of
// named_parameters() (spec §5). That is also the order of the authors' optimizer state. Every
// parameter starts on a 256-byte border; tied parameters stand once.
#ifndef ALBEF_MODEL_LAYOUT_H_
#define ALBEF_MODEL_LAYOUT_H_

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace albef {

inline constexpr int64_t kArenaAlignmentBytes = 256;

enum class ParameterGroup { kNoDecay, kDecay };

// One-dimensional tensors and biases are not decayed; τ (0-D), class token, position embedding and
// all embedding tables are.
ParameterGroup GroupOf(std::string_view key, std::span<const int64_t> shape);

struct ParameterShape {
  std::string key;
  std::vector<int64_t> shape;
};

struct LayoutEntry {
  std::string key;
  std::vector<int64_t> shape;
  int64_t offset = 0;      // in elements
  int64_t num_values = 0;  // without padding
  ParameterGroup group = ParameterGroup::kNoDecay;
};

// A stretch of an arena, in elements.
struct ArenaRange {
  int64_t offset = 0;
  int64_t size = 0;
};

// Immutable after construction; safe to read from any thread.
class Layout {
 public:
  // `parameters` in the order of named_parameters(), each once.
  Layout(std::span<const ParameterShape> parameters, size_t element_bytes);

  const std::vector<LayoutEntry>& entries() const { return entries_; }
  const LayoutEntry* Find(std::string_view key) const;

  // All elements of an arena, padding included.
  int64_t size() const { return size_; }
  int64_t num_values() const { return num_values_; }
  ArenaRange RangeOf(ParameterGroup group) const;

 private:
  std::vector<LayoutEntry> entries_;
  std::map<std::string, size_t, std::less<>> index_;
  int64_t num_values_ = 0;
  int64_t decay_offset_ = 0;
  int64_t size_ = 0;
};

}  // namespace albef

#endif  // ALBEF_MODEL_LAYOUT_H_
