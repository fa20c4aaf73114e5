// Propagation of absl::Status without the three lines it takes by hand.
#ifndef ALBEF_COMMON_STATUS_MACROS_H_
#define ALBEF_COMMON_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

// Returns from the enclosing function when `expression` yields a status that is not OK.
#define RETURN_IF_ERROR(expression)                             \
  do {                                                          \
    if (::absl::Status status_ = (expression); !status_.ok()) { \
      return status_;                                           \
    }                                                           \
  } while (false)

// ASSIGN_OR_RETURN(auto value, MakeValue());
#define ASSIGN_OR_RETURN(declaration, expression) \
  ALBEF_ASSIGN_OR_RETURN_(ALBEF_CONCAT_(status_or_, __LINE__), declaration, expression)

#define ALBEF_ASSIGN_OR_RETURN_(temporary, declaration, expression) \
  auto temporary = (expression);                                    \
  if (!temporary.ok()) return std::move(temporary).status();        \
  declaration = *std::move(temporary)

#define ALBEF_CONCAT_(a, b) ALBEF_CONCAT_INNER_(a, b)
#define ALBEF_CONCAT_INNER_(a, b) a##b

#endif  // ALBEF_COMMON_STATUS_MACROS_H_
