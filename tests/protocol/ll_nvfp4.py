# SPDX-License-Identifier: Apache-2.0
"""What the tests of combine with NVFP4 rows share: what is sent, the calls, and the comparison.

The rows are those of :mod:`ll`, but groups of 16 elements differ in size, and some are zeros, so that a scale
in the wrong place shows. Where no token is, rows and global scales are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import nccl_ep as ep
import numpy as np
import nvfp4_oracle
import oracle
from ll import EM, Array, Exchange, expert_rows, group_config
from oracle import Problem, in_groups

NVFP4 = ep.CombineQuantizationRecipe.NVFP4


@dataclass(frozen=True)
class Returned:
    """What all ranks give to combine: ``rows[rank]`` and ``scales[rank]`` as dispatch's output tokens."""

    problem: Problem
    layout: ep.Layout
    rows: list[Array]
    scales: list[Array]


def make_returned(problem: Problem, layout: ep.Layout, seed: int) -> Returned:
    """Random rows with the global scales that their largest magnitudes ask for."""
    random = np.random.default_rng([seed, 2])
    rows = []
    for rank in range(problem.num_ranks):
        groups = in_groups(expert_rows(problem, rank, layout), nvfp4_oracle.GROUP)
        sizes = np.exp2(random.integers(-9, 1, groups.shape[:-1]) + random.integers(-4, 5))
        sizes[random.random(sizes.shape) < 0.1] = 0
        scaled = (groups.astype(np.float64) * sizes[..., None]).astype(problem.dtype)
        rows.append(scaled.reshape(*groups.shape[:-2], problem.hidden))
    return with_their_scales(Returned(problem, layout, rows, []))


def with_their_scales(returned: Returned) -> Returned:
    return replace(returned, scales=[nvfp4_oracle.global_scales(rows) for rows in returned.rows])


class Nvfp4Exchange(Exchange):
    """One rank's buffers; ``combine`` is with NVFP4 rows."""

    def __init__(self, rank: Any, returned: Returned) -> None:
        super().__init__(rank, returned.problem, returned.layout)
        self.expert_rows = rank.array(returned.rows[rank.rank])
        self.scales = rank.array(returned.scales[rank.rank])

    def combine(self, handle: ep.Handle, stream: Any = None, *, send_only: bool = False, **_: Any) -> None:
        handle.combine(
            ep.CombineInputs(self.expert_rows, scales=self.scales),
            ep.CombineOutputs(self.combined, self.topk_weights if self.layout is EM else None),
            config=ep.CombineConfig(send_only=send_only, quantization_recipe=NVFP4),
            stream=stream,
        )


def combine_nvfp4(rank: Any, returned: Returned, *, halves: bool = False, **config: Any) -> Array:
    """One plain dispatch and a combine, in a group of their own: what a rank has combined."""
    with ep.Group(rank.comm, group_config(returned.problem, **config)) as group:
        mine = Nvfp4Exchange(rank, returned)
        with mine.make_handle(group) as handle:
            mine.dispatch(handle)
            mine.combine(handle, send_only=halves)
            handle.complete()
            combined: Array = mine.results()["combined"]
            return combined


def check_combined(returned: Returned, results: list[Array]) -> None:
    """Compares what every rank has combined with the sums of rows that have come as NVFP4."""
    problem = returned.problem
    limits = [nvfp4_oracle.limits_of(scales) for scales in returned.scales]
    for rank, found in enumerate(results):
        sums = _sums(problem, returned.layout, rank, returned.rows)
        most = _sums(_with_positive_weights(problem), returned.layout, rank, limits)
        nvfp4_oracle.assert_sums(
            sums, [[float(limit[0]) for limit in of] for of in most], found, f"rank {rank}: combined"
        )


def _sums(problem: Problem, layout: ep.Layout, home: int, rows: list[Array]) -> list[list[Array]]:
    of = oracle.sums_expert_major if layout is EM else oracle.rows_rank_major
    with np.errstate(invalid="ignore", over="ignore"):
        return of(problem, home, rows)


def _with_positive_weights(problem: Problem) -> Problem:
    return replace(problem, topk_weights=[np.abs(weights) for weights in problem.topk_weights])
