# SPDX-License-Identifier: Apache-2.0
"""Sends tokens to their experts and back, on four simulated GPUs. No GPU is needed."""

import nccl_ep as ep
import numpy as np
from nccl_ep.sim import Cluster

EXPERTS, TOKENS, TOPK, HIDDEN = 8, 16, 2, 64


def main(rank):
    random = np.random.default_rng(rank.rank)
    x = rank.array(random.random((TOKENS, HIDDEN), np.float32))
    topk_idx = rank.array([random.choice(EXPERTS, TOPK, replace=False) for _ in range(TOKENS)])
    weights = rank.full((TOKENS, TOPK), 1 / TOPK)
    rows = rank.empty((EXPERTS // rank.num_ranks, rank.num_ranks * TOKENS, HIDDEN))
    counts, y = rank.empty(len(rows), np.int32), rank.empty((TOKENS, HIDDEN))

    config = ep.GroupConfig(
        num_experts=EXPERTS, max_dispatch_tokens_per_rank=TOKENS, max_token_bytes=4 * HIDDEN
    )
    with ep.Group(rank, config) as group, group.create_handle(ep.Layout.EXPERT_MAJOR, topk_idx) as handle:
        counted = ep.LayoutInfo(expert_counters=counts)
        handle.dispatch(ep.DispatchInputs(x), ep.DispatchOutputs(rows), layout_info=counted)
        rank.synchronize()
        for zone, count in zip(rows, counts, strict=True):
            zone[:count] *= 10  # an expert of your own
        handle.combine(ep.CombineInputs(rows), ep.CombineOutputs(y, weights))
        rank.synchronize()
    return float(np.abs(y - 10 * x).max())


with Cluster(gpus_per_node=4) as cluster:
    print("largest error on each rank:", cluster.run(main))
