// Lets fmt and spdlog print absl::string_view, which is not std::string_view with the
// distribution's Abseil: spdlog::error("{}", status.message()).
#ifndef ALBEF_COMMON_FORMAT_ABSL_H_
#define ALBEF_COMMON_FORMAT_ABSL_H_

#include <fmt/format.h>

#include <string_view>

#include "absl/strings/string_view.h"

template <>
struct fmt::formatter<absl::string_view> : fmt::formatter<std::string_view> {
  template <typename Context>
  auto format(absl::string_view text, Context& context) const {
    return fmt::formatter<std::string_view>::format({text.data(), text.size()}, context);
  }
};

#endif  // ALBEF_COMMON_FORMAT_ABSL_H_
