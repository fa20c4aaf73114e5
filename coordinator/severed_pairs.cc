#include "coordinator/severed_pairs.h"

#include <algorithm>

namespace albef {
namespace {

constexpr MonotonicDuration kFirst = std::chrono::seconds(10);
constexpr MonotonicDuration kLongest = std::chrono::minutes(10);

}  // namespace

void SeveredPairs::Note(const std::string& one, const std::string& other, MonotonicTime now) {
  if (one == other) return;
  Separation& separation = pairs_[std::minmax(one, other)];
  if (now < separation.until) return;  // both have said so
  separation.duration = separation.duration == MonotonicDuration::zero()
                            ? kFirst
                            : std::min(2 * separation.duration, kLongest);
  separation.until = now + separation.duration;
}

void SeveredPairs::OnConnected(std::span<const std::string> workers) {
  if (pairs_.empty()) return;
  std::vector<std::string> sorted(workers.begin(), workers.end());
  std::ranges::sort(sorted);
  std::erase_if(pairs_, [&](const auto& entry) {
    return std::ranges::binary_search(sorted, entry.first.first) &&
           std::ranges::binary_search(sorted, entry.first.second);
  });
}

void SeveredPairs::Forget(const std::string& worker) {
  std::erase_if(pairs_, [&](const auto& entry) {
    return entry.first.first == worker || entry.first.second == worker;
  });
}

std::vector<std::string> SeveredPairs::PartnersOf(const std::string& worker,
                                                  MonotonicTime now) const {
  std::vector<std::string> partners;
  for (const auto& [pair, separation] : pairs_) {
    if (now >= separation.until) continue;
    if (pair.first == worker) partners.push_back(pair.second);
    if (pair.second == worker) partners.push_back(pair.first);
  }
  return partners;
}

}  // namespace albef
