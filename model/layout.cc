#include "model/layout.h"

#include <fmt/format.h>

#include <stdexcept>

namespace albef {

ParameterGroup GroupOf(std::string_view key, std::span<const int64_t> shape) {
  return shape.size() == 1 || key.ends_with(".bias") ? ParameterGroup::kNoDecay
                                                     : ParameterGroup::kDecay;
}

Layout::Layout(std::span<const ParameterShape> parameters, size_t element_bytes) {
  const int64_t alignment = kArenaAlignmentBytes / static_cast<int64_t>(element_bytes);
  for (const ParameterGroup group : {ParameterGroup::kNoDecay, ParameterGroup::kDecay}) {
    if (group == ParameterGroup::kDecay) decay_offset_ = size_;
    for (const ParameterShape& parameter : parameters) {
      if (GroupOf(parameter.key, parameter.shape) != group) continue;
      LayoutEntry entry{.key = parameter.key,
                        .shape = parameter.shape,
                        .offset = size_,
                        .num_values = 1,
                        .group = group};
      for (const int64_t extent : parameter.shape) entry.num_values *= extent;
      if (!index_.emplace(entry.key, entries_.size()).second) {
        throw std::invalid_argument(fmt::format("layout: parameter {} is named twice", entry.key));
      }
      num_values_ += entry.num_values;
      size_ += (entry.num_values + alignment - 1) / alignment * alignment;
      entries_.push_back(std::move(entry));
    }
  }
}

const LayoutEntry* Layout::Find(std::string_view key) const {
  const auto found = index_.find(key);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

ArenaRange Layout::RangeOf(ParameterGroup group) const {
  return group == ParameterGroup::kNoDecay
             ? ArenaRange{.offset = 0, .size = decay_offset_}
             : ArenaRange{.offset = decay_offset_, .size = size_ - decay_offset_};
}

}  // namespace albef
