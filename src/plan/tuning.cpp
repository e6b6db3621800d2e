// SPDX-License-Identifier: Apache-2.0
#include "plan/tuning.hpp"

#include <algorithm>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <string>

#include "runtime/error.hpp"

namespace nccl_ep::plan {
namespace {

uint32_t parse_number(const char* variable, const std::string& entry, size_t begin) {
  uint32_t number = 0;
  const char *first = entry.data() + begin, *last = entry.data() + entry.size();
  const std::from_chars_result result = std::from_chars(first, last, number);
  if (result.ec != std::errc() || result.ptr != last) {
    throw Error(ncclInvalidUsage, std::string(variable) + ": '" + entry + "', expected a number up to " +
                                      std::to_string(UINT32_MAX) + " behind the =");
  }
  return number;
}

}  // namespace

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
    *known->value = parse_number(variable, entry, equals + 1);
    at = comma ? comma + 1 : nullptr;
  }
}

}  // namespace nccl_ep::plan
