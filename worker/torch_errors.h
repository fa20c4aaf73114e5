// What LibTorch throws, as a status.
#ifndef ALBEF_WORKER_TORCH_ERRORS_H_
#define ALBEF_WORKER_TORCH_ERRORS_H_

#include <utility>

#include "absl/status/status.h"

namespace albef {

// Of the exception being handled: ABORTED with the keys that help where memory ran out, else
// INTERNAL.
absl::Status StatusOfCurrentException();

// `body`'s result, with exceptions as statuses.
template <typename Body>
auto CatchExceptions(Body&& body) -> decltype(body()) {
  try {
    return std::forward<Body>(body)();
  } catch (...) {
    return StatusOfCurrentException();
  }
}

}  // namespace albef

#endif  // ALBEF_WORKER_TORCH_ERRORS_H_
