// SPDX-License-Identifier: Apache-2.0
// Choices of a plan that a user may pin, for measuring: "threads=256,push_warps=4".
#pragma once

#include <cstdint>
#include <initializer_list>

namespace nccl_ep::plan {

struct TuningField {
  const char* name;
  uint32_t* value;
};

// Sets the fields that `text` names; nullptr names none. Throws Error for anything else, with the variable's name.
void parse_tuning(const char* variable, const char* text, std::initializer_list<TuningField> fields);

}  // namespace nccl_ep::plan
