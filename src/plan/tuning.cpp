// SPDX-License-Identifier: Apache-2.0
#include "plan/tuning.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/error.hpp"

namespace nccl_ep::plan {

void parse_tuning(const char* variable, const char* text, std::initializer_list<TuningField> fields) {
  for (const char* at = text; at && *at;) {
    const char* comma = std::strchr(at, ',');
    const std::string entry = comma ? std::string(at, comma) : std::string(at);
    const size_t equals = entry.find('=');
    const auto* known = std::find_if(fields.begin(), fields.end(),
                                     [&](const TuningField& field) { return entry.substr(0, equals) == field.name; });
    if (equals == std::string::npos || known == fields.end()) {
      std::string names;
      for (const TuningField& field : fields) names += (names.empty() ? "" : ", ") + std::string(field.name) + "=";
      throw Error(ncclInvalidUsage, std::string(variable) + ": '" + entry + "' is not one of " + names);
    }
    *known->value = static_cast<uint32_t>(std::strtoul(entry.c_str() + equals + 1, nullptr, 10));
    at = comma ? comma + 1 : nullptr;
  }
}

}  // namespace nccl_ep::plan
