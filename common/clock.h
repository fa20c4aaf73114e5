// Time that passed, in the unit of logs and events.
#ifndef ALBEF_COMMON_CLOCK_H_
#define ALBEF_COMMON_CLOCK_H_

#include <chrono>

namespace albef {

inline double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace albef

#endif  // ALBEF_COMMON_CLOCK_H_
