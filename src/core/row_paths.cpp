// SPDX-License-Identifier: Apache-2.0
#include "core/row_paths.hpp"

#include <algorithm>

namespace nccl_ep::core {

RowProbe::RowProbe(const ncclEpCapabilityQuery_t& query, std::initializer_list<size_t> zone) : query_(query) {
  describe(home_tokens_, {1}, query.hidden, query.datatype, false);
  describe(home_scales_, {1}, query.num_scales, query.scales_datatype, false);
  describe(expert_tokens_, zone, query.hidden, query.datatype, query.tokens_in_window != 0);
  describe(expert_scales_, zone, query.num_scales, query.scales_datatype, query.scales_in_window != 0);
}

void RowProbe::describe(Tensor& tensor, std::initializer_list<size_t> outer, size_t row, ncclDataType_t datatype,
                        bool is_in_window) {
  *std::copy(outer.begin(), outer.end(), tensor.sizes) = row;
  tensor.c = NCCL_EP_TENSOR_INIT;
  tensor.c.ndim = static_cast<unsigned int>(outer.size()) + 1;
  tensor.c.datatype = datatype;
  tensor.c.sizes = tensor.sizes;
  if (is_in_window) tensor.c.win_hdl = reinterpret_cast<ncclWindow_t>(&tensor);
}

DispatchRequest RowProbe::dispatch() const {
  DispatchRequest request;
  request.pass_direction = query_.pass_direction;
  request.recipe = static_cast<ncclEpDispQuant_t>(query_.quant_recipe);
  request.tokens = &home_tokens_.c;
  request.out_tokens = &expert_tokens_.c;
  if (query_.num_scales != 0) request.scales = &home_scales_.c;
  if (request.recipe != NCCL_EP_DISP_QUANT_NONE) request.out_scales = &expert_scales_.c;
  return request;
}

CombineRequest RowProbe::combine() const {
  CombineRequest request;
  request.pass_direction = query_.pass_direction;
  request.recipe = static_cast<ncclEpCombQuant_t>(query_.quant_recipe);
  request.tokens = &expert_tokens_.c;
  request.out_tokens = &home_tokens_.c;
  if (query_.num_scales != 0) request.scales = &expert_scales_.c;
  return request;
}

}  // namespace nccl_ep::core
