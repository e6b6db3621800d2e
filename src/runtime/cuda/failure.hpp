// SPDX-License-Identifier: Apache-2.0
// What is said when the CUDA driver refuses something. The library and NCCL's plugin have each their own part of the
// driver's interface.
#pragma once

#include <string>

namespace nccl_ep::runtime::cuda {

// "CUDA_ERROR_INVALID_VALUE (1): invalid argument", from any struct with the driver's functions.
template <class Driver, class Result>
std::string describe(const Driver& driver, Result result) {
  const char* name = nullptr;
  const char* text = nullptr;
  driver.cuGetErrorName(result, &name);
  driver.cuGetErrorString(result, &text);
  return std::string(name ? name : "unknown CUDA error") + " (" + std::to_string(result) +
         "): " + (text ? text : "no description");
}

}  // namespace nccl_ep::runtime::cuda
