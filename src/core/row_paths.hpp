// SPDX-License-Identifier: Apache-2.0
// Which way the rows of a call take: straight to where they belong, or by way of the library's window. A call decides
// in check_rows of its group, and ncclEpQueryCapabilities asks the same functions, with a probe in the call's place.
#pragma once

#include <initializer_list>

#include "core/requests.hpp"

namespace nccl_ep::core {

struct RowPath {
  ncclEpRowPath_t path = NCCL_EP_ROW_PATH_NONE;
  const char* reason = "";  // goes on from the tensor's name

  bool is_direct() const { return path == NCCL_EP_ROW_PATH_DIRECT; }
};

struct RowPaths {
  RowPath in_tokens, in_scales, out_tokens, out_scales;
};

inline constexpr RowPath kReadInPlace{NCCL_EP_ROW_PATH_IN_PLACE,
                                      "this rank reads it where it is, and a window changes nothing"};
inline constexpr RowPath kWrittenInPlace{NCCL_EP_ROW_PATH_IN_PLACE,
                                         "this rank alone writes it, and a window changes nothing"};

// Tensors as a call would have them, made of a query: they describe rows, and nobody may follow their pointers.
class RowProbe {
 public:
  // `zone` are the extents before the row's of the tensors on the experts' side; the others have one row.
  RowProbe(const ncclEpCapabilityQuery_t& query, std::initializer_list<size_t> zone);
  RowProbe(const RowProbe&) = delete;
  RowProbe& operator=(const RowProbe&) = delete;

  DispatchRequest dispatch() const;
  CombineRequest combine() const;

 private:
  struct Tensor {
    size_t sizes[3];
    ncclEpTensor_t c;
  };
  static void describe(Tensor& tensor, std::initializer_list<size_t> outer, size_t row, ncclDataType_t datatype,
                       bool is_in_window);

  const ncclEpCapabilityQuery_t& query_;
  Tensor home_tokens_, home_scales_, expert_tokens_, expert_scales_;
};

}  // namespace nccl_ep::core
