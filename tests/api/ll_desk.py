# SPDX-License-Identifier: Apache-2.0
"""What the tests of Low-Latency misuse share."""

from __future__ import annotations

from typing import Any

import misuse
import nccl_ep as ep
import numpy as np
from misuse import BF16, B, E, H, K

EM, RM = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR


class Desk(misuse.Desk):
    """One rank with a Low-Latency group and well-formed tensors."""

    def __init__(self, rank: Any, group: ep.Group, layout: ep.Layout) -> None:
        super().__init__(rank, group, layout)
        zone = (E, B) if layout is EM else (1, B)
        self.received = self.array((*zone, H), BF16)
        self.received_weights = self.array((1, B, K), np.float32)
        self.received_idx = self.array((1, B, K), np.int32)
        self.counters = self.array((E if layout is EM else 1,), np.int32)

    def handle_to_combine(self) -> ep.Handle:
        handle = self.handle()
        handle.dispatch(self.inputs(), self.outputs(), layout_info=self.info())
        return handle

    def inputs(self, **changes: Any) -> ep.DispatchInputs:
        good = {"tokens": self.tokens} | ({} if self.layout is EM else {"topk_weights": self.weights})
        return ep.DispatchInputs(**(good | changes))

    def outputs(self, **changes: Any) -> ep.DispatchOutputs:
        good = {"tokens": self.received}
        if self.layout is RM:
            good |= {"topk_weights": self.received_weights, "topk_idx": self.received_idx}
        return ep.DispatchOutputs(**(good | changes))

    def info(self, **changes: Any) -> ep.LayoutInfo:
        name = "expert_counters" if self.layout is EM else "src_rank_counters"
        return super().info(**({name: self.counters} | changes))

    def combine_outputs(self, **changes: Any) -> ep.CombineOutputs:
        weights = {"topk_weights": self.weights} if self.layout is EM else {}
        return super().combine_outputs(**(weights | changes))
