# SPDX-License-Identifier: Apache-2.0
"""Scenarios for High-Throughput groups with masks, in which ranks are lost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace

from ht import FLAT, Mode
from ht_mask_runs import run_with_late_ranks
from ht_masks import (
    BLOCKS,
    FOUR,
    LOST,
    SHAPE,
    check_dying_in_quantized_combine,
    find_moment,
    run_until_the_lost_are_gone,
    run_with_unequal_masks,
)
from ht_scenarios import simulated
from ll import make_problem

MODE = Mode(FLAT, budget=64)


def dies(seed: int) -> None:
    """In the middle of dispatch, or a little later."""
    for moment in (30_000, 40_000):
        with simulated(SHAPE.num_ranks, seed, checker=False) as cluster:
            run_until_the_lost_are_gone(cluster, make_problem(SHAPE, seed), MODE, {LOST: moment}, seed)


def quantizes(seed: int) -> None:
    """A rank dies before it sends anything."""
    problem = make_problem(replace(SHAPE, hidden=256), seed)
    with simulated(SHAPE.num_ranks, seed, checker=False) as cluster:
        check_dying_in_quantized_combine(cluster, problem, MODE, 1)


def late(seed: int) -> None:
    with simulated(SHAPE.num_ranks, seed) as cluster:
        run_with_late_ranks(cluster, make_problem(SHAPE, seed), MODE, (LOST,), "dispatch")


def just_counted(seed: int) -> None:
    """A rank dies when some have its counts and others do not."""
    with ExitStack() as clusters:
        find_moment(
            lambda: clusters.enter_context(simulated(SHAPE.num_ranks, seed, checker=False)),
            make_problem(SHAPE, seed),
            MODE,
        )


def several_blocks(seed: int) -> None:
    """The same where ranks have several blocks, which look for the counts each for itself."""
    mode = replace(MODE, budget=4 * BLOCKS.max_tokens)
    with ExitStack() as clusters:
        find_moment(
            lambda: clusters.enter_context(simulated(BLOCKS.num_ranks, seed, checker=False)),
            make_problem(BLOCKS, seed),
            mode,
        )


def unequal(seed: int) -> None:
    for again in range(2):
        with simulated(FOUR.num_ranks, seed + 1000 * again) as cluster:
            run_with_unequal_masks(cluster, make_problem(FOUR, seed), MODE, seed + again)


SCENARIOS: dict[str, Callable[[int], None]] = {
    "dies": dies,
    "quantizes": quantizes,
    "late": late,
    "just-counted": just_counted,
    "several-blocks": several_blocks,
    "unequal": unequal,
}
