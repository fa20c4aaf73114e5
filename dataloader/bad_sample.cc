#include "dataloader/bad_sample.h"

#include <nlohmann/json.hpp>

namespace albef {

std::string ToJson(const BadSample& sample) {
  const nlohmann::ordered_json line = {
      {"image", sample.image},
      {"reason", sample.reason},
      {"detail", sample.detail},
      {"position", sample.position},
      {"sample", sample.sample_index},
      {"substitute", sample.substitute},
      {"substitute_sample", sample.substitute_index},
  };
  // Paths are bytes: what is not UTF-8 becomes U+FFFD.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace albef
