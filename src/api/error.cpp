// SPDX-License-Identifier: Apache-2.0
#include "api/error.hpp"

#include <new>
#include <system_error>

namespace nccl_ep::api {
namespace {

struct LastError {
  ncclEpGroup_t group = nullptr;
  std::string message;
};

thread_local LastError last;

ncclResult_t store(const char* function, ncclEpGroup_t group, ncclResult_t code, const char* problem) noexcept {
  last.group = group;
  try {
    last.message.assign(function).append(": ").append(problem);
  } catch (const std::bad_alloc&) {
    last.message.clear();  // the code has to do
  }
  return code;
}

}  // namespace

void remember(const char* function, ncclEpGroup_t group, const std::string& message) noexcept {
  store(function, group, ncclSuccess, message.c_str());
}

ncclResult_t record_failure(const char* function, ncclEpGroup_t group) noexcept {
  try {
    throw;
  } catch (const Error& error) {
    return store(function, group, error.code(), error.what());
  } catch (const std::bad_alloc&) {
    return store(function, group, ncclSystemError, "out of host memory");
  } catch (const std::system_error& error) {  // of files
    return store(function, group, ncclSystemError, error.what());
  } catch (const std::exception& error) {
    return store(function, group, ncclInternalError, error.what());
  } catch (...) {
    return store(function, group, ncclInternalError, "an exception of unknown type");
  }
}

const char* last_error(ncclEpGroup_t group) noexcept {
  return !group || group == last.group ? last.message.c_str() : "";
}

void refuse_null(const char* field, const char* expected) {
  refuse(ncclInvalidArgument, field, std::string("is NULL, expected ") + expected);
}

}  // namespace nccl_ep::api

extern "C" const char* ncclEpGetLastError(ncclEpGroup_t ep_group) { return nccl_ep::api::last_error(ep_group); }
