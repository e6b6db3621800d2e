// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "api/decode.hpp"
#include "api/objects.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

// The sentences of the calling thread's last answer.
thread_local std::string reasons[4];

ncclEpCapabilityQuery_t decode_query(const ncclEpCapabilityQuery_t* query) {
  ncclEpCapabilityQuery_t current = decode_required("query", query);
  decode_enum("query.operation", current.operation, NCCL_EP_OPERATION_COMBINE);
  if (current.operation == NCCL_EP_OPERATION_UPDATE) {
    refuse(ncclInvalidArgument, "query.operation",
           "is NCCL_EP_OPERATION_UPDATE (0), expected NCCL_EP_OPERATION_DISPATCH (1) or NCCL_EP_OPERATION_COMBINE (2)");
  }
  decode_enum("query.pass_direction", current.pass_direction, NCCL_EP_BWD_PASS);
  const bool is_dispatch = current.operation == NCCL_EP_OPERATION_DISPATCH;
  const auto last_recipe = is_dispatch ? unsigned{NCCL_EP_DISP_QUANT_DS_FP8E3M4} : unsigned{NCCL_EP_COMB_QUANT_FP8};
  decode_enum("query.quant_recipe", current.quant_recipe, last_recipe);
  return current;
}

ncclEpTensorPath_t told(std::string& sentence, const char* tensor, const core::RowPath& path) {
  sentence = path.path == NCCL_EP_ROW_PATH_NONE ? "" : std::string(tensor) + ": " + path.reason;
  return {path.path, {}, sentence.c_str()};
}

ncclEpCapabilities_t possible(const core::RowPaths& paths) {
  ncclEpCapabilities_t answer = NCCL_EP_CAPABILITIES_INIT;
  answer.inputs_tokens = told(reasons[0], core::kTokens, paths.in_tokens);
  answer.inputs_scales = told(reasons[1], core::kScales, paths.in_scales);
  answer.outputs_tokens = told(reasons[2], core::kOutTokens, paths.out_tokens);
  answer.outputs_scales = told(reasons[3], core::kOutScales, paths.out_scales);
  return answer;
}

ncclEpCapabilities_t refused(const Error& error) {
  ncclEpCapabilities_t answer = NCCL_EP_CAPABILITIES_INIT;
  answer.result = error.code();
  reasons[0] = error.what();
  const ncclEpTensorPath_t path{NCCL_EP_ROW_PATH_REFUSED, {}, reasons[0].c_str()};
  answer.inputs_tokens = answer.inputs_scales = answer.outputs_tokens = answer.outputs_scales = path;
  return answer;
}

ncclEpCapabilities_t ask(const core::Group& group, ncclEpLayout_t layout, const ncclEpCapabilityQuery_t& query) {
  core::RowPaths paths;
  try {
    paths = group.row_paths(layout, query);
  } catch (const Error& error) {
    return refused(error);
  }
  return possible(paths);
}

}  // namespace

extern "C" ncclResult_t ncclEpQueryCapabilities(ncclEpGroup_t ep_group, ncclEpLayout_t layout,
                                                const ncclEpCapabilityQuery_t* query,
                                                ncclEpCapabilities_t* capabilities) {
  return guarded("ncclEpQueryCapabilities", ep_group, [&] {
    require("ep_group", ep_group, "a group");
    const ncclEpCapabilities_t current = decode_required("capabilities", capabilities);
    decode_enum("layout", layout, NCCL_EP_LAYOUT_FLAT);
    ncclEpCapabilities_t answer = ask(*ep_group->group, layout, decode_query(query));
    answer.size = capabilities->size;
    std::memcpy(capabilities, &answer, std::min<size_t>(current.size, capabilities->size));
  });
}
