// A walk through all that a parsed pickle holds.
#ifndef ALBEF_TESTS_FORMATS_FUZZ_WALK_H_
#define ALBEF_TESTS_FORMATS_FUZZ_WALK_H_

#include <cstdlib>

#include "formats/pickle_value.h"

namespace albef {

// Number of values and tensor bytes, every one looked at.
inline size_t Walk(const PickleValue& value, int depth = 0) {
  if (depth > 1000) std::abort();
  size_t total = 1 + value.text().size() + value.class_name().size();
  for (const PickleValue& element : value.elements()) total += Walk(element, depth + 1);
  for (const auto& [key, item] : value.items()) {
    if (key.kind() == PickleValue::Kind::kString && !value.Find(key.text()).ok()) std::abort();
    total += Walk(key, depth + 1) + Walk(item, depth + 1);
  }
  total += value.args().is_none() ? 0 : Walk(value.args(), depth + 1);
  total += value.state().is_none() ? 0 : Walk(value.state(), depth + 1);
  if (const auto tensor = value.AsTensor(); tensor.ok()) {
    const TensorView& view = (*tensor)->view;
    if (ByteSize(view.dtype, view.shape) != view.bytes.size()) std::abort();
    for (const std::byte byte : view.bytes) total += static_cast<size_t>(byte);
  }
  return total;
}

}  // namespace albef

#endif  // ALBEF_TESTS_FORMATS_FUZZ_WALK_H_
