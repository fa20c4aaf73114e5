// What LibTorch throws, and what the data loader reports, as the status that a trainer ends with.
#ifndef ALBEF_WORKER_TORCH_ERRORS_H_
#define ALBEF_WORKER_TORCH_ERRORS_H_

#include <utility>

#include "absl/status/status.h"

namespace albef {

// Of the exception being handled: ABORTED with the keys that help where memory ran out, else
// INTERNAL.
absl::Status StatusOfCurrentException();

// An error of the batch stream: ABORTED where neither a restart nor waiting would help, that is too
// many bad samples, and memory that runs out, then with the keys that help. Trouble of storage
// stays what it is.
absl::Status FromLoader(const absl::Status& error);

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
