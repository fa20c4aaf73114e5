// RUN_DIR/secrets/token: who can read it may take part in the run and command it. Folder and file
// are their owner's alone. 64 hexadecimal digits, made once per run directory. Clients send it with
// every call as metadata "authorization: Bearer TOKEN".
#ifndef ALBEF_COORDINATOR_RUN_TOKEN_H_
#define ALBEF_COORDINATOR_RUN_TOKEN_H_

#include <filesystem>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace albef {

// NOT_FOUND before the run's first coordinator has made it, DATA_LOSS for a file that is no token.
absl::StatusOr<std::string> ReadRunToken(const std::filesystem::path& run_dir);

// The run's token, made if there is none. Processes that call it at once get the same.
absl::StatusOr<std::string> EnsureRunToken(const std::filesystem::path& run_dir);

// The value of the metadata "authorization" for a token.
std::string AuthorizationOf(std::string_view token);

}  // namespace albef

#endif  // ALBEF_COORDINATOR_RUN_TOKEN_H_
