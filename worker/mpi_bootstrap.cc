#include "worker/mpi_bootstrap.h"

#include <fmt/format.h>

#define OMPI_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <vector>

namespace albef {
namespace {

// One process's offer as bytes of the same size everywhere.
struct Record {
  int64_t exit_code;
  int64_t newest_term;
  std::array<char, 256> host;
};

absl::Status ToStatus(int error, std::string_view operation) {
  if (error == MPI_SUCCESS) return absl::OkStatus();
  std::array<char, MPI_MAX_ERROR_STRING> text = {};
  int size = 0;
  MPI_Error_string(error, text.data(), &size);
  return absl::InternalError(fmt::format("{}: {}", operation, text.data()));
}

}  // namespace

bool WasStartedByMpirun() { return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr; }

absl::StatusOr<BootstrapFacts> BootstrapWithMpi(const BootstrapOffer& offer) {
  if (const absl::Status status = ToStatus(MPI_Init(nullptr, nullptr), "MPI_Init"); !status.ok()) {
    return status;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  BootstrapFacts facts;
  MPI_Comm_rank(MPI_COMM_WORLD, &facts.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &facts.size);

  Record own = {.exit_code = offer.exit_code, .newest_term = offer.newest_term, .host = {}};
  std::strncpy(own.host.data(), offer.host.c_str(), own.host.size() - 1);
  std::vector<Record> records(static_cast<size_t>(facts.size));
  const absl::Status gathered = ToStatus(MPI_Allgather(&own, sizeof(own), MPI_BYTE, records.data(),
                                                       sizeof(own), MPI_BYTE, MPI_COMM_WORLD),
                                         "MPI_Allgather");
  const absl::Status finalized = ToStatus(MPI_Finalize(), "MPI_Finalize");
  if (!gathered.ok()) return gathered;
  if (!finalized.ok()) return finalized;

  for (int rank = 0; rank < facts.size; ++rank) {
    const Record& record = records[static_cast<size_t>(rank)];
    const bool is_here = record.host == own.host;
    facts.spans_hosts |= !is_here;
    facts.local_rank += is_here && rank < facts.rank ? 1 : 0;
    facts.newest_term = std::max(facts.newest_term, record.newest_term);
    if (record.exit_code > facts.exit_code) {
      facts.exit_code = static_cast<int>(record.exit_code);
      facts.failed_rank = rank;
    }
  }
  return facts;
}

}  // namespace albef
