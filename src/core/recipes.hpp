// SPDX-License-Identifier: Apache-2.0
// Recipes: which tokens and scales a call may have, and what its rows are on their way.
#pragma once

#include "core/checks.hpp"
#include "core/row_paths.hpp"
#include "shared/quantization.hpp"

namespace nccl_ep::core {

// A row as it arrives, and the scales that come with it. Both travel with each token.
struct SentRows {
  ncclDataType_t dtype;        // of outputs.tokens
  size_t hidden;               // elements
  ncclDataType_t scale_dtype;  // of outputs.scales
  size_t num_scales;           // of a row; 0: the recipe has no scales
  bool quantizes;              // dispatch makes rows and scales of inputs.tokens

  uint64_t row_bytes() const { return bytes_of(hidden, dtype); }
  uint64_t scale_bytes() const { return bytes_of(num_scales, scale_dtype); }
  // Both, filled up to whole packs.
  uint64_t sent_bytes() const { return row_bytes() + align_up(scale_bytes(), 16); }
  // The last extents of outputs.tokens and of outputs.scales.
  Extent hidden_extent() const { return {hidden, "hidden of inputs.tokens"}; }
  Extent scales_extent() const;
};

// What a dispatch sends, and which way it takes.
struct DispatchRows {
  SentRows sent;
  RowPaths paths;
};

// Checks what a recipe says of config, inputs.tokens and inputs.scales, and that rows with their scales are within the
// group's max_token_bytes.
SentRows check_sent_rows(const DispatchRequest& request, size_t num_tokens, uint64_t max_token_bytes);
// Checks outputs.scales, of exactly these extents; absent without scales.
void check_received_scales(const DispatchRequest& request, const SentRows& rows, std::initializer_list<Extent> extents);

// Combine: checks what a recipe says of config, inputs.tokens, of this many elements, and inputs.scales, but for the extents
// of those that the caller gives. A group with exact_combine has none.
void check_combine_recipe(const CombineRequest& request, size_t hidden, bool is_exact);

// Scales are read and written element by element, so that their rows need not be multiples of anything.
void* address_of_scales(const char* field, const ncclEpTensor_t* scales, runtime::Communicator& comm);

}  // namespace nccl_ep::core
