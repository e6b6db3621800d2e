// SPDX-License-Identifier: Apache-2.0
// Exceptions become codes; messages belong to a thread and to a group.
#include "api/error.hpp"

#include <doctest/doctest.h>

#include <new>
#include <string>
#include <system_error>
#include <thread>

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

const auto kGroup = reinterpret_cast<ncclEpGroup_t>(0x10);
const auto kOtherGroup = reinterpret_cast<ncclEpGroup_t>(0x20);

std::string message(ncclEpGroup_t group) { return ncclEpGetLastError(group); }

template <class Exception>
ncclResult_t code_of(const Exception& exception) {
  return guarded("f", nullptr, [&] { throw exception; });
}

}  // namespace

TEST_CASE("api_error: every exception becomes a code and a message") {
  CHECK(code_of(Error(ncclInvalidUsage, "x: is 1, expected 2")) == ncclInvalidUsage);
  CHECK(message(nullptr) == "f: x: is 1, expected 2");
  CHECK(code_of(std::bad_alloc()) == ncclSystemError);
  CHECK(message(nullptr) == "f: out of host memory");
  CHECK(code_of(std::system_error(std::make_error_code(std::errc::permission_denied), "/dump")) == ncclSystemError);
  CHECK(code_of(std::runtime_error("odd")) == ncclInternalError);
  CHECK(message(nullptr) == "f: odd");
  CHECK(code_of(7) == ncclInternalError);
}

TEST_CASE("api_error: success changes nothing") {
  code_of(Error(ncclInvalidUsage, "old"));
  CHECK(guarded("g", kGroup, [] {}) == ncclSuccess);
  CHECK(message(nullptr) == "f: old");
}

TEST_CASE("api_error: a group is asked for its own failures only") {
  guarded("f", kGroup, [] { throw Error(ncclInvalidUsage, "first"); });
  CHECK(message(kGroup) == "f: first");
  CHECK(message(kOtherGroup) == "");
  CHECK(message(nullptr) == "f: first");
}

TEST_CASE("api_error: a thread sees its own failures only") {
  code_of(Error(ncclInvalidUsage, "here"));
  std::string there = "unset";
  std::thread([&] { there = message(nullptr); }).join();
  CHECK(there == "");
}

TEST_CASE("api_error: calls without an object answer NULL with a code") {
  CHECK(ncclEpGetVersion(nullptr) == ncclInvalidArgument);
  int version = 0;
  CHECK(ncclEpGetVersion(&version) == ncclSuccess);
  CHECK(version == 200);

  const auto unset = reinterpret_cast<ncclEpGroup_t>(1);
  ncclEpGroup_t group = unset;
  ncclEpGroupConfig_t config = NCCL_EP_GROUP_CONFIG_INIT;
  CHECK(ncclEpCreateGroup(&group, nullptr, &config) == ncclInvalidArgument);
  CHECK(group == nullptr);
  CHECK(ncclEpCreateGroup(nullptr, nullptr, &config) == ncclInvalidArgument);
  CHECK(ncclEpGroupDestroy(nullptr) == ncclSuccess);

  ncclEpHandle_t handle = reinterpret_cast<ncclEpHandle_t>(1);
  CHECK(ncclEpInitHandle(&handle, nullptr, NCCL_EP_LAYOUT_RANK_MAJOR, nullptr, 8, nullptr) == ncclInvalidArgument);
  CHECK(handle == nullptr);
  handle = reinterpret_cast<ncclEpHandle_t>(1);
  CHECK(ncclEpCreateHandle(&handle, nullptr, NCCL_EP_LAYOUT_RANK_MAJOR, nullptr, nullptr, nullptr, nullptr) ==
        ncclInvalidArgument);
  CHECK(handle == nullptr);
  CHECK(ncclEpHandleDestroy(nullptr) == ncclSuccess);
  size_t bytes = 0;
  CHECK(ncclEpHandleMemSize(nullptr, NCCL_EP_LAYOUT_RANK_MAJOR, nullptr, &bytes, 8) == ncclInvalidArgument);
  CHECK(ncclEpUpdateHandle(nullptr, nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpDispatch(nullptr, nullptr, nullptr, nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpCombine(nullptr, nullptr, nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpComplete(nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(message(nullptr) == "ncclEpComplete: handle: is NULL, expected a handle");
  CHECK(ncclEpMaskQuery(nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpMaskUpdate(nullptr, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpMaskClean(nullptr, nullptr) == ncclInvalidArgument);
  int error = 0;
  CHECK(ncclEpGetAsyncError(nullptr, &error) == ncclInvalidArgument);
  CHECK(ncclEpErrorClear(nullptr) == ncclInvalidArgument);
}
