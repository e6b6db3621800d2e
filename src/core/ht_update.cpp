// SPDX-License-Identifier: Apache-2.0
// High-Throughput update on the host: check, plan, fill the arguments.
#include "core/ht_handle.hpp"

namespace nccl_ep::core {
namespace {

void check_flat(const ncclEpLayoutInfo_t& info, const Extent& local_experts) {
  check_absent(kOffsets, info.expert_offsets, "the flat layout does not sort rows by expert");
  if (info.expert_counters) check_tensor(kExpertCounters, info.expert_counters, {ncclInt32}, {local_experts});
  if (info.recv_total_counter) {
    check_tensor(kTotal, info.recv_total_counter, {ncclInt32, ncclInt64}, {{1, "one number", Extent::at_least}});
  }
}

// The three have one width.
void check_expert_major(const ncclEpLayoutInfo_t& info, const Extent& local_experts) {
  const struct {
    const char* field;
    const ncclEpTensor_t* tensor;
    Extent extent;
  } counters[] = {{kExpertCounters, info.expert_counters, local_experts},
                  {kOffsets, info.expert_offsets, local_experts},
                  {kTotal, info.recv_total_counter, {1, "one number", Extent::at_least}}};
  const ncclEpTensor_t* first = nullptr;
  for (const auto& [field, tensor, extent] : counters) {
    if (!tensor) continue;
    if (first && first->datatype != tensor->datatype && element_bytes(tensor->datatype) > 1) {
      refuse(ncclInvalidArgument, field,
             std::string("datatype is ") + dtype_name(tensor->datatype) + ", expected " + dtype_name(first->datatype) +
                 ": the counters of a layout_info have one type");
    }
    check_tensor(field, tensor, {ncclInt32, ncclInt64}, {extent});
    if (!first) first = tensor;
  }
}

}  // namespace

void HtHandle::update(const ncclEpTensor_t* topk_idx, const ncclEpLayoutInfo_t& info, cudaStream_t stream) {
  group_.throw_if_faulted();
  const plan::HtShape& shape = group_.shape();
  check_topk_idx(topk_idx, num_topk(), shape.max_tokens);
  check_absent(kSourceCounters, info.src_rank_counters, "High Throughput does not fill it");
  const Extent local_experts{shape.num_local_experts(), "local experts", Extent::at_least};
  is_expert_major() ? check_expert_major(info, local_experts) : check_flat(info, local_experts);

  const auto num_tokens = static_cast<uint32_t>(topk_idx->sizes[0]);
  const plan::HtUpdatePlan plan = plan::plan_ht_update(shape, num_tokens, group_.update_limits(), group_.tuning());
  runtime::Communicator& comm = group_.comm();
  const auto output = [&](const char* field, const ncclEpTensor_t* tensor) -> CounterOutput {
    if (!tensor) return {};
    return {address_of(field, *tensor, comm, element_bytes(tensor->datatype)), tensor->datatype == ncclInt64};
  };
  HtUpdateArgs args{};
  args.group = group_.state();
  args.handle = state_;
  args.topk.ids = address_of("topk_idx", *topk_idx, comm, element_bytes(topk_idx->datatype));
  args.topk.is_64bit = topk_idx->datatype == ncclInt64;
  args.topk.tokens = {num_tokens, num_tokens_at(info, comm)};
  args.topk.num_topk = num_topk();
  args.tile_tokens = plan.tile_tokens;
  args.tiles_per_block = plan.tiles_per_block;
  args.first_block = plan.first_block;
  args.block_counts = group_.block_counts();
  args.alignment = alignment_;
  args.max_slots = shape.budget;
  args.drops = shape.drops;
  args.expert_counters = output(kExpertCounters, info.expert_counters);
  args.expert_offsets = output(kOffsets, info.expert_offsets);
  args.recv_total = output(kTotal, info.recv_total_counter);
  args.host_totals = reinterpret_cast<Unit*>(host_totals_.data());
  args.update = num_updates_ + 1;
  args.network = group_.network();
  was_captured_ = was_captured_ || group_.device().is_capturing(stream);
  if (shape.drops && !is_expert_major() && args.expert_counters.data) {  // experts may be counted row by row
    const size_t bytes = bytes_of(shape.num_local_experts(), info.expert_counters->datatype);
    group_.device().fill(args.expert_counters.data, 0, bytes, stream);
  }
  launch(group_.kernels().at(jit::Op::update, layout_), plan.launch, args, stream);
  num_tokens_ = num_tokens;
  ++num_updates_;
  note_routing();
  if (group_.has_masks()) note_ranks(stream);
}

}  // namespace nccl_ep::core
