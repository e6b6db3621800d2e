// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <limits>
#include <new>

#include "api/decode.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

// One piece of memory: the descriptor, then its extents.
ncclEpTensor_t* allocate_tensor(unsigned ndim, ncclDataType_t datatype, const size_t* sizes) {
  static_assert(sizeof(ncclEpTensor_t) % alignof(size_t) == 0);
  void* memory = std::malloc(sizeof(ncclEpTensor_t) + size_t{ndim} * sizeof(size_t));
  if (!memory) throw std::bad_alloc();
  auto* own_sizes = reinterpret_cast<size_t*>(static_cast<ncclEpTensor_t*>(memory) + 1);
  std::copy_n(sizes, ndim, own_sizes);
  ncclEpTensor_t tensor = NCCL_EP_TENSOR_INIT;
  tensor.magic = kAllocatedTensorMagic;
  tensor.ndim = ndim;
  tensor.datatype = datatype;
  tensor.sizes = own_sizes;
  return new (memory) ncclEpTensor_t(tensor);
}

}  // namespace

extern "C" ncclResult_t ncclEpTensorAlloc(ncclEpTensor_t** tensor, unsigned int ndim, ncclDataType_t datatype,
                                          const size_t* sizes, const ncclEpTensorAllocConfig_t* config) {
  if (tensor) *tensor = nullptr;
  return guarded("ncclEpTensorAlloc", nullptr, [&] {
    require("tensor", tensor, "a place for the tensor");
    require("sizes", sizes, "the extents");
    if (ndim == 0) refuse(ncclInvalidArgument, "ndim", "is 0, expected at least 1");
    decode_optional("config", config);
    *tensor = allocate_tensor(ndim, datatype, sizes);
  });
}

extern "C" ncclResult_t ncclEpTensorDestroy(ncclEpTensor_t* tensor) {
  return guarded("ncclEpTensorDestroy", nullptr, [&] {
    if (!tensor) return;
    if (tensor->magic != kAllocatedTensorMagic || !has_own_sizes(*tensor)) {
      refuse(ncclInvalidArgument, "tensor",
             "is not as ncclEpTensorAlloc made it, expected a descriptor of its with the "
             "original magic and sizes pointer");
    }
    std::free(tensor);
  });
}
