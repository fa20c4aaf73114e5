#ifndef ALBEF_BENCHMARKS_MEDIAN_H_
#define ALBEF_BENCHMARKS_MEDIAN_H_

#include <algorithm>
#include <vector>

namespace albef {

// Of at least one value; of an even number the upper of the two in the middle.
inline double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<long>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace albef

#endif  // ALBEF_BENCHMARKS_MEDIAN_H_
