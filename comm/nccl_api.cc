#include "comm/nccl_api.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "common/status_macros.h"

namespace albef {
namespace {

constexpr char kRemedy[] =
    "NCCL comes with a LibTorch for CUDA (deploy/install-deps.sh --cuda); another one is taken "
    "where LD_LIBRARY_PATH names its folder first";

absl::Status Refused(const std::string& what) {
  return absl::FailedPreconditionError(absl::StrCat(what, "; ", kRemedy));
}

template <typename Function>
absl::Status Find(void* library, const std::string& path, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  if (function != nullptr) return absl::OkStatus();
  return Refused(absl::StrCat(path, ": no function ", name, ": not NCCL, or older than 2.14"));
}

}  // namespace

std::string NcclVersionText(int version) {
  // Before 2.9 the minor version had a single digit.
  const int major = version < 10'000 ? version / 1000 : version / 10'000;
  const int minor = version < 10'000 ? version % 1000 / 100 : version % 10'000 / 100;
  return absl::StrCat(major, ".", minor, ".", version % 100);
}

absl::Status CheckNcclVersion(int version) {
  if (version < NcclConfig::kVersion) {
    return Refused(absl::StrCat("NCCL ", NcclVersionText(version),
                                " cannot end an operation that hangs; 2.14 or later is needed"));
  }
  if (version >= 22803 && version <= 22808) {
    return Refused(absl::StrCat("NCCL ", NcclVersionText(version),
                                " is known to be broken; use 2.28.9 or later, or 2.27"));
  }
  return absl::OkStatus();
}

absl::StatusOr<NcclApi> LoadNccl(const std::string& library) {
  // A LibTorch for CUDA has loaded it already; then its name is enough.
  void* const handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    return Refused(
        absl::StrCat("several GPUs talk through NCCL, which is not here: ", ::dlerror()));
  }
  NcclApi nccl{};
  RETURN_IF_ERROR(Find(handle, library, "ncclGetVersion", nccl.get_version));
  int version = 0;
  if (const NcclResult result = nccl.get_version(&version); result != NcclResult::kSuccess) {
    return Refused(absl::StrCat(library, ": ncclGetVersion fails with ", static_cast<int>(result)));
  }
  RETURN_IF_ERROR(CheckNcclVersion(version));
  RETURN_IF_ERROR(Find(handle, library, "ncclGetErrorString", nccl.get_error_string));
  RETURN_IF_ERROR(Find(handle, library, "ncclGetLastError", nccl.get_last_error));
  RETURN_IF_ERROR(Find(handle, library, "ncclGetUniqueId", nccl.get_unique_id));
  RETURN_IF_ERROR(Find(handle, library, "ncclCommInitRankConfig", nccl.comm_init_rank_config));
  RETURN_IF_ERROR(Find(handle, library, "ncclCommGetAsyncError", nccl.comm_get_async_error));
  RETURN_IF_ERROR(Find(handle, library, "ncclCommAbort", nccl.comm_abort));
  RETURN_IF_ERROR(Find(handle, library, "ncclGroupStart", nccl.group_start));
  RETURN_IF_ERROR(Find(handle, library, "ncclGroupEnd", nccl.group_end));
  RETURN_IF_ERROR(Find(handle, library, "ncclSend", nccl.send));
  RETURN_IF_ERROR(Find(handle, library, "ncclRecv", nccl.receive));
  RETURN_IF_ERROR(Find(handle, library, "ncclAllReduce", nccl.all_reduce));
  return nccl;
}

absl::Status NcclStatus(const NcclApi& nccl, NcclResult result, NcclHandle communicator) {
  if (result == NcclResult::kSuccess) return absl::OkStatus();
  std::string message = absl::StrCat("NCCL: ", nccl.get_error_string(result));
  const char* last = nccl.get_last_error(communicator);
  if (last != nullptr && *last != '\0') absl::StrAppend(&message, " (", last, ")");
  for (char& each : message) {
    if (each == '\n') each = ' ';
  }
  const bool is_ours =
      result == NcclResult::kInvalidArgument || result == NcclResult::kInvalidUsage;
  return is_ours ? absl::InternalError(message) : absl::UnavailableError(message);
}

}  // namespace albef
