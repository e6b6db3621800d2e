// SPDX-License-Identifier: Apache-2.0
// The border between exceptions and result codes.
#pragma once

#include <string>

#include "nccl_ep.h"
#include "runtime/error.hpp"

namespace nccl_ep::api {

// Call only while handling an exception: stores "function: message" as this thread's last error, about
// `group` if there is one, and returns the code. Success never comes here, so it costs nothing.
ncclResult_t record_failure(const char* function, ncclEpGroup_t group) noexcept;

// The same for an error that is the answer of a call which has not failed.
void remember(const char* function, ncclEpGroup_t group, const std::string& message) noexcept;

// The last error of this thread if it was about this group (nullptr: any), else "".
const char* last_error(ncclEpGroup_t group) noexcept;

// Runs an API function's body; whatever it throws becomes a code and a message.
template <class Body>
ncclResult_t guarded(const char* function, ncclEpGroup_t group, Body&& body) noexcept {
  try {
    body();
    return ncclSuccess;
  } catch (...) {
    return record_failure(function, group);
  }
}

// Apart and cold, like the other messages of common checks: a call that succeeds should not have to read past them.
[[noreturn, gnu::cold]] void refuse_null(const char* field, const char* expected);

// `pointer` must not be NULL.
inline void require(const char* field, const void* pointer, const char* expected) {
  if (!pointer) refuse_null(field, expected);
}

}  // namespace nccl_ep::api
