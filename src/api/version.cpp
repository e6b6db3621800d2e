// SPDX-License-Identifier: Apache-2.0
#include "api/error.hpp"

using namespace nccl_ep::api;

extern "C" ncclResult_t ncclEpGetVersion(int* version) {
  return guarded("ncclEpGetVersion", nullptr, [&] {
    require("version", version, "a place for the version");
    *version = NCCL_EP_VERSION_CODE;
  });
}
