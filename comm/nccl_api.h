// The functions of NCCL that we use, found in the library at run time: no header and no link-time
// library of NVIDIA's is needed, and a build for GPUs starts on a machine without NCCL.
//
// Names, values and layouts are those of NCCL's C interface. A table may be copied; its functions
// are as thread-safe as NCCL says: one thread at a time for each communicator.
#ifndef ALBEF_COMM_NCCL_API_H_
#define ALBEF_COMM_NCCL_API_H_

#include <climits>
#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace albef {

enum class NcclResult : int {
  kSuccess = 0,
  kUnhandledCudaError = 1,
  kSystemError = 2,
  kInternalError = 3,
  kInvalidArgument = 4,
  kInvalidUsage = 5,
  kRemoteError = 6,
  kInProgress = 7,  // of a communicator that does not block: ask again
};

enum class NcclType : int {
  kInt8 = 0,
  kInt32 = 2,
  kInt64 = 4,
  kFloat16 = 6,
  kFloat32 = 7,
  kFloat64 = 8,
  kBfloat16 = 9,
};

enum class NcclReduction : int { kSum = 0 };

struct NcclUniqueId {
  char bytes[128];
};

// The configuration of a communicator as it was in 2.14. A later library takes the defaults for
// what a structure of this size and version does not hold.
struct NcclConfig {
  static constexpr int kVersion = 21400;

  size_t size = sizeof(NcclConfig);
  unsigned int magic = 0xcafebeef;
  unsigned int version = kVersion;
  int blocking = INT_MIN;  // undefined
};
static_assert(sizeof(NcclConfig) == 24 && offsetof(NcclConfig, blocking) == 16);

using NcclHandle = void*;  // a communicator
using NcclStream = void*;  // a cudaStream_t

struct NcclApi {
  NcclResult (*get_version)(int* version);
  const char* (*get_error_string)(NcclResult result);
  const char* (*get_last_error)(NcclHandle communicator);
  NcclResult (*get_unique_id)(NcclUniqueId* id);
  NcclResult (*comm_init_rank_config)(NcclHandle* communicator, int size, NcclUniqueId id, int rank,
                                      NcclConfig* config);
  NcclResult (*comm_get_async_error)(NcclHandle communicator, NcclResult* error);
  NcclResult (*comm_abort)(NcclHandle communicator);
  NcclResult (*group_start)();
  NcclResult (*group_end)();
  NcclResult (*send)(const void* data, size_t count, NcclType type, int peer,
                     NcclHandle communicator, NcclStream stream);
  NcclResult (*receive)(void* data, size_t count, NcclType type, int peer, NcclHandle communicator,
                        NcclStream stream);
  NcclResult (*all_reduce)(const void* from, void* to, size_t count, NcclType type,
                           NcclReduction reduction, NcclHandle communicator, NcclStream stream);
};

// "2.28.9" of 22809.
std::string NcclVersionText(int version);

// FAILED_PRECONDITION for a version that lacks what we use (before 2.14) or is known to be broken
// (2.28.3 to 2.28.8), with the remedy.
absl::Status CheckNcclVersion(int version);

// Loads the library, or finds it where LibTorch has loaded it; it stays loaded. FAILED_PRECONDITION
// where there is none, or none that is good.
absl::StatusOr<NcclApi> LoadNccl(const std::string& library = "libnccl.so.2");

// What NCCL says of a failed call or operation. `communicator` may be null.
absl::Status NcclStatus(const NcclApi& nccl, NcclResult result, NcclHandle communicator);

}  // namespace albef

#endif  // ALBEF_COMM_NCCL_API_H_
