// SPDX-License-Identifier: Apache-2.0
// NCCL, loaded at run time: the functions we call, and the types that nccl_types.hpp lacks. Names, sizes and
// values are the real headers'; tests/abi/test_cuda_declarations.py compares them.
#pragma once

#include <cstddef>
#include <string>

#include "runtime/nccl_types.hpp"

namespace nccl_ep::runtime::cuda {

inline constexpr unsigned int NCCL_API_MAGIC = 0xcafebeef;
inline constexpr int NCCL_WIN_COLL_SYMMETRIC = 1;

// As of 2.29.7. Later versions append fields, which NCCL fills in only for callers whose `version` has them.
struct ncclCommProperties {
  size_t size;
  unsigned int magic;
  unsigned int version;

  int rank;
  int nRanks;
  int cudaDev;
  int nvmlDev;
  bool deviceApiSupport;
  bool multimemSupport;
  int ginType;
  int nLsaTeams;
  bool hostRmaSupport;
  int railedGinType;
};

// X(name, result, parameters)
#define NCCL_EP_NCCL_FUNCTIONS(X)                                                          \
  X(ncclGetVersion, ncclResult_t, (int*))                                                  \
  X(ncclGetErrorString, const char*, (ncclResult_t))                                       \
  X(ncclGetLastError, const char*, (ncclComm_t))                                           \
  X(ncclCommGetAsyncError, ncclResult_t, (ncclComm_t, ncclResult_t*))                      \
  X(ncclCommCuDevice, ncclResult_t, (ncclComm_t, int*))                                    \
  X(ncclCommQueryProperties, ncclResult_t, (ncclComm_t, ncclCommProperties*))              \
  X(ncclMemAlloc, ncclResult_t, (void**, size_t))                                          \
  X(ncclMemFree, ncclResult_t, (void*))                                                    \
  X(ncclCommWindowRegister, ncclResult_t, (ncclComm_t, void*, size_t, ncclWindow_t*, int)) \
  X(ncclCommWindowDeregister, ncclResult_t, (ncclComm_t, ncclWindow_t))                    \
  X(ncclGetLsaDevicePointer, ncclResult_t, (ncclWindow_t, size_t, int, void**))            \
  X(ncclAllGather, ncclResult_t, (const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t))

struct Nccl {
#define NCCL_EP_NCCL_FUNCTION(name, result, parameters) result(*name) parameters = nullptr;
  NCCL_EP_NCCL_FUNCTIONS(NCCL_EP_NCCL_FUNCTION)
#undef NCCL_EP_NCCL_FUNCTION

  int version = 0;   // 23007 for 2.30.7
  std::string path;  // of the library
};

inline constexpr int nccl_version(int major, int minor, int patch) { return major * 10000 + minor * 100 + patch; }
inline constexpr int kMinNccl = nccl_version(2, 29, 7);       // host access to peers' addresses
inline constexpr int kMinNcclTeams = nccl_version(2, 30, 7);  // several LSA teams

// Finds NCCL on first use. Throws Error(ncclSystemError) where there is none, or it is older than kMinNccl.
const Nccl& nccl();

// "2.30.7".
std::string version_text(int version);

// What to tell a user whose NCCL is too old.
std::string old_nccl_message(int found, const std::string& path, bool was_loaded, int expected);

// Throws Error with NCCL's own explanation, and the same code.
void check(ncclResult_t result, const char* what, ncclComm_t comm);

}  // namespace nccl_ep::runtime::cuda
