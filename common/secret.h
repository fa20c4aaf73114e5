// Comparison of secrets.
#ifndef ALBEF_COMMON_SECRET_H_
#define ALBEF_COMMON_SECRET_H_

#include <string_view>

namespace albef {

// Takes as long whatever the strings hold, so that nobody learns a secret by the time an answer
// takes.
bool SecretsEqual(std::string_view a, std::string_view b);

}  // namespace albef

#endif  // ALBEF_COMMON_SECRET_H_
