// SPDX-License-Identifier: Apache-2.0
// NCCL, loaded at run time: the functions we call, and the types that nccl_types.hpp lacks. Names, sizes and
// values are the real headers'; tests/abi/test_cuda_declarations.py compares them.
#pragma once

#include <climits>
#include <cstddef>
#include <cstdint>
#include <string>

#include "runtime/nccl_library.hpp"
#include "runtime/nccl_types.hpp"

namespace nccl_ep::runtime::cuda {

inline constexpr unsigned int NCCL_API_MAGIC = 0xcafebeef;
inline constexpr int NCCL_CONFIG_UNDEF_INT = INT_MIN;
inline constexpr int NCCL_WIN_COLL_SYMMETRIC = 1;
inline constexpr int NCCL_WIN_STRICT_ORDERING = 2;
inline constexpr int NCCL_GIN_CONNECTION_FULL = 1;
inline constexpr int NCCL_GIN_CONNECTION_RAIL = 2;
inline constexpr int NCCL_GIN_TYPE_NONE = 0;
inline constexpr int NCCL_GIN_TYPE_PROXY = 2;
inline constexpr int NCCL_GIN_TYPE_GDAKI = 3;

// As of 2.31.2; until then it ended before commHash. Later versions append fields. NCCL fills in only those that the
// caller's `version` has.
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

  uint64_t commHash;
  int ginMinStride;
  int ginConnectionType;
  bool ginSupport[64];  // by GIN type
  size_t devCommRuntimeVersionSize;
};

// As of 2.31.2; until then it ended before ginCustomStride.
struct ncclDevCommRequirements {
  size_t size;
  unsigned int magic;
  unsigned int version;

  void* resourceRequirementsList;
  void* teamRequirementsList;
  bool lsaMultimem;
  int barrierCount;
  int lsaBarrierCount;
  int railGinBarrierCount;
  int lsaLLA2ABlockCount;
  int lsaLLA2ASlotCount;
  bool ginForceEnable;
  int ginContextCount;
  int ginSignalCount;
  int ginCounterCount;
  int ginConnectionType;
  bool ginExclusiveContexts;
  int ginQueueDepth;
  int ginTrafficClass;
  int worldGinBarrierCount;
  bool ginStrongSignalsRequired;
  bool ginVaSignalsRequired;

  int ginCustomStride;
  int ginType;
  bool useRuntimeVersion;
  int cftCaps;
  int cftBarrierCount;
};

// Its layout is a matter between a version of NCCL and the kernels compiled with its headers.
struct ncclDevComm;

// X(name, result, parameters)
#define NCCL_EP_NCCL_FUNCTIONS(X)                                                                \
  X(ncclGetVersion, ncclResult_t, (int*))                                                        \
  X(ncclGetErrorString, const char*, (ncclResult_t))                                             \
  X(ncclGetLastError, const char*, (ncclComm_t))                                                 \
  X(ncclCommGetAsyncError, ncclResult_t, (ncclComm_t, ncclResult_t*))                            \
  X(ncclCommCuDevice, ncclResult_t, (ncclComm_t, int*))                                          \
  X(ncclCommQueryProperties, ncclResult_t, (ncclComm_t, ncclCommProperties*))                    \
  X(ncclMemAlloc, ncclResult_t, (void**, size_t))                                                \
  X(ncclMemFree, ncclResult_t, (void*))                                                          \
  X(ncclCommWindowRegister, ncclResult_t, (ncclComm_t, void*, size_t, ncclWindow_t*, int))       \
  X(ncclCommWindowDeregister, ncclResult_t, (ncclComm_t, ncclWindow_t))                          \
  X(ncclDevCommCreate, ncclResult_t, (ncclComm_t, const ncclDevCommRequirements*, ncclDevComm*)) \
  X(ncclDevCommDestroy, ncclResult_t, (ncclComm_t, const ncclDevComm*))                          \
  X(ncclGetLsaDevicePointer, ncclResult_t, (ncclWindow_t, size_t, int, void**))                  \
  X(ncclAllGather, ncclResult_t, (const void*, void*, size_t, ncclDataType_t, ncclComm_t, cudaStream_t))

struct Nccl {
#define NCCL_EP_NCCL_FUNCTION(name, result, parameters) result(*name) parameters = nullptr;
  NCCL_EP_NCCL_FUNCTIONS(NCCL_EP_NCCL_FUNCTION)
#undef NCCL_EP_NCCL_FUNCTION

  int version = 0;   // 23007 for 2.30.7
  std::string path;  // of the library
};

inline constexpr int kMinNccl = nccl_version(2, 29, 7);       // host access to peers' addresses
inline constexpr int kDeclaredNccl = nccl_version(2, 31, 2);  // what the structs above are as of
inline constexpr int kNccl231 = nccl_version(2, 31, 0);       // since when they are so

// Finds NCCL on first use. Throws Error(ncclSystemError) where there is none, or it is older than kMinNccl.
const Nccl& nccl();

// What to tell a user whose NCCL is too old.
std::string old_nccl_message(int found, const std::string& path, bool was_loaded, int expected);

// Throws Error with NCCL's own explanation, and the same code.
void check(ncclResult_t result, const char* what, ncclComm_t comm);

// The same, once a call on a non-blocking communicator is done.
void finish(ncclResult_t result, const char* what, ncclComm_t comm);

}  // namespace nccl_ep::runtime::cuda
