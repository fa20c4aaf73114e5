#include "worker/torch_errors.h"

#include <c10/util/Exception.h>
#include <fmt/format.h>

#include <exception>
#include <new>
#include <string>
#include <string_view>

namespace albef {
namespace {

absl::Status OutOfMemory(std::string_view what) {
  return absl::AbortedError(
      fmt::format("out of memory ({}); activation_checkpointing: blocks takes less for the same "
                  "result; or lower batch_size, image_res, queue_size, virtual_ranks, "
                  "data.prefetch_batches or data.num_threads",
                  what));
}

// LibTorch reports a failed allocation of host memory as a plain error; its text is the only sign.
bool IsOutOfMemory(const c10::Error& error) {
  return dynamic_cast<const c10::OutOfMemoryError*>(&error) != nullptr ||
         std::string_view(error.what()).find("DefaultCPUAllocator") != std::string_view::npos;
}

}  // namespace

absl::Status FromLoader(const absl::Status& error) {
  const std::string_view message(error.message().data(), error.message().size());
  // The loader writes nothing: what it lacks is memory, never room on a disk.
  if (absl::IsResourceExhausted(error)) return OutOfMemory(message);
  if (absl::IsDataLoss(error)) return absl::AbortedError(error.message());
  return error;
}

absl::Status StatusOfCurrentException() {
  try {
    throw;
  } catch (const c10::Error& error) {
    if (IsOutOfMemory(error)) return OutOfMemory(error.what_without_backtrace());
    return absl::InternalError(error.what());
  } catch (const std::bad_alloc& error) {
    return OutOfMemory(error.what());
  } catch (const std::exception& error) {
    return absl::InternalError(error.what());
  } catch (...) {
    return absl::UnknownError("an exception that is none of the standard library's");
  }
}

}  // namespace albef
