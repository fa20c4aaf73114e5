// Who is wrong, where several hold what should be the same?
#ifndef ALBEF_COMMON_MAJORITY_H_
#define ALBEF_COMMON_MAJORITY_H_

#include <algorithm>
#include <cstddef>
#include <map>
#include <vector>

namespace albef {

// From the ranks that hold each value: those that differ from what more than half of all hold,
// ascending. Empty where all agree, and where there is no such majority.
template <typename Value>
std::vector<int> MinorityRanks(const std::map<Value, std::vector<int>>& ranks_by_value) {
  size_t total = 0;
  for (const auto& [value, ranks] : ranks_by_value) total += ranks.size();
  std::vector<int> minority;
  for (const auto& [value, ranks] : ranks_by_value) {
    if (2 * ranks.size() <= total) minority.insert(minority.end(), ranks.begin(), ranks.end());
  }
  if (minority.size() == total) return {};
  std::sort(minority.begin(), minority.end());
  return minority;
}

}  // namespace albef

#endif  // ALBEF_COMMON_MAJORITY_H_
