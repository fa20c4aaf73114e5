// Part of every test under ThreadSanitizer. spdlog is not instrumented, so it does not show that
// threads wait for the one that makes the default logger: it is made before there are any.
#include <spdlog/spdlog.h>

namespace {

[[maybe_unused]] const auto kDefaultLogger = spdlog::default_logger();

}  // namespace
