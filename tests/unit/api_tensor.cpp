// SPDX-License-Identifier: Apache-2.0
// ncclEpTensorAlloc and ncclEpTensorDestroy.
#include <doctest/doctest.h>

#include <string>

#include "nccl_ep.h"

namespace {

ncclEpTensor_t* const kUnset = reinterpret_cast<ncclEpTensor_t*>(1);

}  // namespace

TEST_CASE("api_tensor: a descriptor has its own copy of the extents and no data") {
  size_t sizes[] = {4, 7168};
  ncclEpTensor_t* tensor = kUnset;
  REQUIRE(ncclEpTensorAlloc(&tensor, 2, ncclBfloat16, sizes, nullptr) == ncclSuccess);
  sizes[0] = 99;
  CHECK(tensor->size == sizeof(ncclEpTensor_t));
  CHECK(tensor->ndim == 2);
  CHECK(tensor->datatype == ncclBfloat16);
  CHECK(tensor->sizes[0] == 4);
  CHECK(tensor->sizes[1] == 7168);
  CHECK(tensor->data == nullptr);
  CHECK(tensor->win_hdl == nullptr);
  CHECK(ncclEpTensorDestroy(tensor) == ncclSuccess);
}

TEST_CASE("api_tensor: misuse of Alloc is refused and leaves NULL") {
  const size_t sizes[] = {4};
  ncclEpTensor_t* tensor = kUnset;
  CHECK(ncclEpTensorAlloc(nullptr, 1, ncclInt32, sizes, nullptr) == ncclInvalidArgument);
  CHECK(ncclEpTensorAlloc(&tensor, 1, ncclInt32, nullptr, nullptr) == ncclInvalidArgument);
  CHECK(tensor == nullptr);
  tensor = kUnset;
  CHECK(ncclEpTensorAlloc(&tensor, 0, ncclInt32, sizes, nullptr) == ncclInvalidArgument);
  CHECK(tensor == nullptr);
  CHECK(std::string(ncclEpGetLastError(nullptr)) == "ncclEpTensorAlloc: ndim: is 0, expected at least 1");
  tensor = kUnset;
  ncclEpTensorAllocConfig_t config = NCCL_EP_TENSOR_ALLOC_CONFIG_INIT;
  config.size = 0;
  CHECK(ncclEpTensorAlloc(&tensor, 1, ncclInt32, sizes, &config) == ncclInvalidArgument);
  CHECK(tensor == nullptr);
}

TEST_CASE("api_tensor: Destroy takes only what Alloc made") {
  size_t sizes[] = {4};
  CHECK(ncclEpTensorDestroy(nullptr) == ncclSuccess);
  ncclEpTensor_t own = NCCL_EP_TENSOR_INIT;
  own.ndim = 1;
  own.sizes = sizes;
  CHECK(ncclEpTensorDestroy(&own) == ncclInvalidArgument);
  ncclEpTensor_t zeros{};
  CHECK(ncclEpTensorDestroy(&zeros) == ncclInvalidArgument);

  ncclEpTensor_t* tensor = nullptr;
  REQUIRE(ncclEpTensorAlloc(&tensor, 1, ncclInt32, sizes, nullptr) == ncclSuccess);
  size_t* const original = tensor->sizes;
  tensor->sizes = sizes;
  CHECK(ncclEpTensorDestroy(tensor) == ncclInvalidArgument);
  CHECK(std::string(ncclEpGetLastError(nullptr)).find("ncclEpTensorDestroy: tensor: ") == 0);
  tensor->sizes = original;
  CHECK(ncclEpTensorDestroy(tensor) == ncclSuccess);
}
