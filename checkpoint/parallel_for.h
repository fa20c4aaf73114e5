// A loop whose turns are independent, spread over threads.
#ifndef ALBEF_CHECKPOINT_PARALLEL_FOR_H_
#define ALBEF_CHECKPOINT_PARALLEL_FOR_H_

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace albef {

// Calls body(i) once for every i in [0, count), on up to `num_threads` threads of which the
// caller's is one; returns when all are done. `body` must not throw.
template <typename Body>
void ParallelFor(size_t count, int num_threads, const Body& body) {
  std::atomic<size_t> next = 0;
  const auto work = [&] {
    for (size_t i = next.fetch_add(1); i < count; i = next.fetch_add(1)) body(i);
  };
  std::vector<std::jthread> others;
  const size_t wanted = std::min(count, static_cast<size_t>(std::max(num_threads, 1)));
  for (size_t i = 1; i < wanted; ++i) others.emplace_back(work);
  work();
}

}  // namespace albef

#endif  // ALBEF_CHECKPOINT_PARALLEL_FOR_H_
