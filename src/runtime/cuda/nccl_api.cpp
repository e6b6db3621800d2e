// SPDX-License-Identifier: Apache-2.0
#include "runtime/cuda/nccl_api.hpp"

#include <filesystem>
#include <thread>

#include "runtime/error.hpp"
#include "runtime/library.hpp"

namespace nccl_ep::runtime::cuda {
namespace {

Nccl load_nccl() {
  const Library library =
      Library::open({"NCCL",
                     {"libnccl.so.2"},
                     {"nvidia/nccl/lib"},
                     "ncclGetVersion",
                     "pip install nvidia-nccl-cu13 (or -cu12), or put its folder in LD_LIBRARY_PATH"});
  Nccl loaded;
  loaded.path = library.path();
  library.bind(loaded.ncclGetVersion, "ncclGetVersion");
  loaded.ncclGetVersion(&loaded.version);
  if (loaded.version < kMinNccl) {
    throw Error(ncclSystemError, old_nccl_message(loaded.version, loaded.path, library.was_loaded(), kMinNccl));
  }
#define NCCL_EP_NCCL_FUNCTION(name, result, parameters) library.bind(loaded.name, #name);
  NCCL_EP_NCCL_FUNCTIONS(NCCL_EP_NCCL_FUNCTION)
#undef NCCL_EP_NCCL_FUNCTION
  return loaded;
}

}  // namespace

const Nccl& nccl() {
  static const Nccl loaded = load_nccl();
  return loaded;
}

std::string old_nccl_message(int found, const std::string& path, bool was_loaded, int expected) {
  std::string message =
      "NCCL is " + version_text(found) + " (" + path + "), expected " + version_text(expected) + " or later.";
  if (was_loaded) {
    message += " Another library of this process, often PyTorch, had loaded it first.";
  }
  return message +
         " Upgrade it with pip install -U nvidia-nccl-cu13 (-cu12 with CUDA 12), or name a newer "
         "libnccl.so.2 in "
         "LD_PRELOAD.";
}

void check(ncclResult_t result, const char* what, ncclComm_t comm) {
  if (result == ncclSuccess) return;
  const char* text = nccl().ncclGetErrorString(result);
  const char* detail = nccl().ncclGetLastError(comm);
  std::string message = std::string(what) + ": " + (text ? text : "unknown NCCL error");
  if (detail != nullptr && *detail != '\0') message += std::string(" (") + detail + ")";
  throw Error(result, message);
}

void finish(ncclResult_t result, const char* what, ncclComm_t comm) {
  while (result == ncclInProgress) {
    std::this_thread::yield();
    check(nccl().ncclCommGetAsyncError(comm, &result), "ncclCommGetAsyncError", comm);
  }
  check(result, what, comm);
}

}  // namespace nccl_ep::runtime::cuda

namespace nccl_ep::runtime {

std::string version_text(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

NcclLibrary nccl_library() {
  const cuda::Nccl& nccl = cuda::nccl();
  std::error_code ignored;
  return {std::filesystem::canonical(nccl.path, ignored).string(), nccl.version};
}

}  // namespace nccl_ep::runtime
