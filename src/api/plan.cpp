// SPDX-License-Identifier: Apache-2.0
// Plans of memory and of traffic: a group and a handle are made on paper, so that the numbers are those of real ones.
#include <algorithm>

#include "api/decode.hpp"
#include "core/ht_handle.hpp"
#include "core/ll_handle.hpp"
#include "nccl_ep_plan.h"
#include "plan/memory_pieces.hpp"
#include "plan/traffic.hpp"
#include "runtime/on_paper.hpp"

using namespace nccl_ep;
using namespace nccl_ep::api;

namespace {

constexpr uint32_t kThreadsPerBlock = 1024;
constexpr size_t kSharedBytes = 227 * 1024;  // of a block, with compute capability 9.0 and 10.0

struct Plan {
  const ncclEpGroupConfig_t& config;
  ncclEpLayout_t layout;
  int num_topk;
  ncclEpMemoryVisitor_t visit;
  void* context;

  void tell(ncclEpMemoryKind_t kind, int of_handle, const char* name, size_t bytes) const {
    const ncclEpMemoryPiece_t piece{name, kind, of_handle, bytes};
    if (bytes) visit(&piece, context);
  }
  // `allocated` is what a real one takes.
  void tell(ncclEpMemoryKind_t kind, int of_handle, const plan::MemoryPieces& pieces, size_t allocated) const {
    if (plan::total_bytes(pieces) != allocated) {
      throw Error(ncclInternalError, "the pieces of a plan have " + std::to_string(plan::total_bytes(pieces)) +
                                         " bytes, and what it is for has " + std::to_string(allocated));
    }
    for (const plan::MemoryPiece& piece : pieces) tell(kind, of_handle, piece.name, piece.bytes);
  }
};

std::unique_ptr<core::Group> group_on_paper(const ncclEpGroupConfig_t& config, const runtime::RanksOnPaper& ranks,
                                            uint32_t num_sms, runtime::MemoryCount& count) {
  const runtime::DeviceLimits limits{num_sms, kThreadsPerBlock, kSharedBytes, "paper"};
  return core::Group::create(runtime::make_communicator_on_paper(ranks, limits, count), config);
}

// Calls use(shape) with the shape of a group of either algorithm.
template <class Use>
auto with_shape(const core::Group& group, ncclEpAlgorithm_t algorithm, const Use& use) {
  return algorithm == NCCL_EP_ALGO_HIGH_THROUGHPUT ? use(static_cast<const core::HtGroup&>(group).shape())
                                                   : use(static_cast<const core::LlGroup&>(group).shape());
}

void plan_memory(const Plan& plan, const ncclEpHandleConfig_t& handle_config, const runtime::RanksOnPaper& ranks,
                 uint32_t num_sms) {
  runtime::MemoryCount count;
  const std::unique_ptr<core::Group> group = group_on_paper(plan.config, ranks, num_sms, count);
  const runtime::MemoryCount of_group = count;
  const std::unique_ptr<core::Handle> handle = group->create_handle(plan.layout, handle_config, plan.num_topk, nullptr);

  with_shape(*group, plan.config.algorithm, [&](const auto& shape) {
    plan.tell(NCCL_EP_MEMORY_WINDOW, 0, plan::window_pieces(shape), of_group.window);
    const size_t of_masks = group->mask_bytes();
    plan.tell(NCCL_EP_MEMORY_DEVICE, 0, "progress of the kernels", sizeof(GroupProgress));
    plan.tell(NCCL_EP_MEMORY_DEVICE, 0, "working memory of the kernels",
              of_group.device - sizeof(GroupProgress) - of_masks);
    plan.tell(NCCL_EP_MEMORY_DEVICE, 0, "masks", of_masks);
    plan.tell(NCCL_EP_MEMORY_PINNED, 0, "what kernels report", sizeof(FaultRecords));
    plan.tell(NCCL_EP_MEMORY_PINNED, 0, "masks", of_group.host - sizeof(FaultRecords));
    const plan::MemoryPieces pieces =
        plan::handle_pieces(shape, static_cast<Layout>(plan.layout), static_cast<uint32_t>(plan.num_topk));
    plan.tell(NCCL_EP_MEMORY_DEVICE, 1, pieces, count.device - of_group.device);
    plan.tell(NCCL_EP_MEMORY_PINNED, 0, "totals received, of many handles", count.host - of_group.host);
  });
}

// What every plan is asked for, once it is known to make sense by itself.
ncclEpGroupConfig_t decode_plan(const ncclEpGroupConfig_t* config, const runtime::RanksOnPaper& ranks,
                                ncclEpLayout_t layout) {
  const std::string num_ranks = std::to_string(ranks.num_ranks);
  if (ranks.num_ranks < 1 || ranks.num_ranks > kMaxRanks) {
    refuse(ncclInvalidArgument, "num_ranks", "is " + num_ranks + ", expected 1 to " + std::to_string(kMaxRanks));
  }
  if (ranks.team_size == 0 || ranks.num_ranks % ranks.team_size != 0) {
    refuse(ncclInvalidArgument, "team_size",
           "is " + std::to_string(ranks.team_size) + ", expected a divisor of num_ranks (" + num_ranks + ")");
  }
  ncclEpGroupConfig_t current = decode_group_config(config);
  decode_enum("layout", layout, NCCL_EP_LAYOUT_FLAT);
  current.alloc = {};
  return current;
}

plan::TrafficPieces traffic_of(const ncclEpGroupConfig_t& config, const runtime::RanksOnPaper& ranks,
                               ncclEpLayout_t layout, int num_topk) {
  runtime::MemoryCount count;
  const uint32_t num_sms = std::max(config.max_num_sms, 1u);  // no matter how many
  const std::unique_ptr<core::Group> group = group_on_paper(config, ranks, num_sms, count);
  group->create_handle(layout, decode_optional<ncclEpHandleConfig_t>("handle_config", nullptr), num_topk, nullptr);
  const plan::HandleShape handle{static_cast<Layout>(layout), static_cast<uint32_t>(num_topk),
                                 config.zero_copy == NCCL_EP_ZERO_COPY_ON};
  return with_shape(*group, config.algorithm, [&](const auto& shape) { return plan::traffic_of(shape, handle); });
}

}  // namespace

extern "C" ncclResult_t ncclEpPlanMemory(const ncclEpGroupConfig_t* config, unsigned int num_ranks,
                                         unsigned int team_size, unsigned int num_sms, ncclEpLayout_t layout,
                                         const ncclEpHandleConfig_t* handle_config, int num_topk,
                                         ncclEpMemoryVisitor_t visit, void* context) {
  return guarded("ncclEpPlanMemory", nullptr, [&] {
    require("visit", reinterpret_cast<const void*>(visit), "a function");
    if (num_sms == 0) refuse(ncclInvalidArgument, "num_sms", "is 0, expected the number of the device's SMs");
    const runtime::RanksOnPaper ranks{num_ranks, team_size};
    const ncclEpGroupConfig_t current = decode_plan(config, ranks, layout);
    plan_memory({current, layout, num_topk, visit, context}, decode_optional("handle_config", handle_config), ranks,
                num_sms);
  });
}

extern "C" ncclResult_t ncclEpPlanTraffic(const ncclEpGroupConfig_t* config, unsigned int num_ranks,
                                          unsigned int team_size, ncclEpLayout_t layout, int num_topk,
                                          ncclEpTrafficVisitor_t visit, void* context) {
  return guarded("ncclEpPlanTraffic", nullptr, [&] {
    require("visit", reinterpret_cast<const void*>(visit), "a function");
    const runtime::RanksOnPaper ranks{num_ranks, team_size};
    const ncclEpGroupConfig_t current = decode_plan(config, ranks, layout);
    for (const plan::TrafficPiece& piece : traffic_of(current, ranks, layout, num_topk)) {
      const ncclEpTrafficPiece_t told = piece.c();
      visit(&told, context);
    }
  });
}
