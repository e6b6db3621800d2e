# SPDX-License-Identifier: Apache-2.0
"""Each wait of the High-Throughput kernels ends in vain, as an error that names it and the missing rank.

Those that :mod:`test_ht_faults` has already are not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import nccl_ep as ep
import pytest
from both import fault
from ht import FLAT, Exchange, Mode, Shape, group_config, make_problem
from ht_mask_teams import die_while_awaited, shape_of
from ht_recipes import ScaledExchange, config_for, quantized_rows
from test_ht_faults import EM_ROWS, FLAT_BACKWARD, FLAT_ROWS, Stray
from wait_sites import Fault, Site, at_some_moment, ends_in

pytestmark = pytest.mark.sim_only
TIMEOUT_NS = 1_000_000
ONE_OF_EACH = {
    "threads_per_block": 96,
    "sms": 1,
}  # a warp that pushes, one that raises flags, one that receives


@dataclass(frozen=True)
class Scene:
    """Ranks that call something else than the others, or nothing.

    Attributes:
        site: the wait that is to end in vain.
        call: the others'.
        mode: of the exchange.
        missing: the ranks that do not make it.
        stray: what they do instead; None: they are silent.
        nodes: that the ranks are on.
        sources: the ranks that have tokens; None: all.
        witnesses, bystanders: as in :class:`Fault`.
        options: of the cluster.
        group: changes of its configuration. With masks it goes on without the missing ranks, and says so.
        how: arguments of the call.
    """

    site: Site
    call: str
    mode: Mode
    missing: frozenset[int]
    stray: Stray | None
    nodes: int
    witnesses: frozenset[int]
    bystanders: frozenset[int] = frozenset()
    sources: frozenset[int] | None = None
    options: dict[str, int] = field(default_factory=dict)
    group: dict[str, Any] = field(default_factory=dict)
    how: dict[str, Any] = field(default_factory=dict)

    def run(self, make_cluster: Any, seed: int) -> list[str]:
        tokens = tuple(10 if self.sources is None or rank in self.sources else 0 for rank in range(4))
        shape = Shape(num_ranks=4, max_tokens=10, tokens=tokens, no_route=0, num_topk=3, hidden=128)
        problem = make_problem(shape, seed)
        mode = replace(self.mode, team_size=4 // self.nodes)
        cluster = make_cluster(4, seed, nodes=self.nodes, **self.options)
        config = replace(group_config(problem, mode, timeout_ns=TIMEOUT_NS), **self.group)

        def main(rank: Any) -> str:
            with ep.Group(rank.comm, config) as group:
                mine = Exchange(rank, problem, mode)
                handle = mine.make_handle(group)
                mine.dispatch(handle)
                rank.synchronize()
                rank.barrier()
                if rank.rank not in self.missing:
                    getattr(mine, self.call)(handle, **self.how)
                    rank.synchronize()
                    found = group.async_error()
                    if config.enable_mask or found is None:
                        return "" if found is None else found.message
                    return fault(rank, group, partial(mine.dispatch, handle))
                if self.stray is None:
                    cluster.sim.silence(rank.rank)
                else:
                    self.stray.act(mine, group, handle)
                if config.enable_mask:
                    rank.synchronize()  # it ends, and the group is left then
                return ""

        said: list[str] = cluster.run(main)
        return said

    def fault(self) -> Fault:
        return Fault(self.site, self.missing, self.run, self.witnesses, self.bystanders)


def ranks(*numbers: int) -> frozenset[int]:
    return frozenset(numbers)


def does(stray_call: str, stray_mode: Mode = FLAT_ROWS) -> Stray:
    """What a stray does, whatever the others do."""
    return Stray("", stray_mode, stray_call, stray_mode, ())


# Of ranks 0, 1 and 2, 3 on two nodes, 0 and 2 are rail peers.
SCENES = [
    Scene(("ht/operation.cuh", "peer_start"), "dispatch", FLAT_ROWS, ranks(1), None, 1, ranks(0, 2, 3)),
    Scene(("ht/participants.cuh", "source_counts"), "update", FLAT_ROWS, ranks(1), does("dispatch"), 1,
          ranks(0, 2, 3), group={"enable_mask": True}),
    Scene(("ht/deliver.cuh", "dispatch_row"), "dispatch", FLAT_BACKWARD, ranks(1), does("update"), 1,
          ranks(0, 2, 3), options=ONE_OF_EACH),
    Scene(("ht/rails.cuh", "peer_start"), "update", FLAT_ROWS, ranks(2, 3), None, 2, ranks(0, 1)),
    Scene(("ht/update_remote.cuh", "remote_counts"), "update", FLAT_ROWS, ranks(2), does("dispatch"), 2,
          ranks(0), options={"sms": 1}),
    # It finds that there is not enough room, and sends no records.
    Scene(("ht/update_remote.cuh", "remote_records"), "update", EM_ROWS, ranks(2),
          does("update", replace(EM_ROWS, alignment=64)), 2, ranks(0), options={"sms": 1}),
    Scene(("ht/parcels.cuh", "remote_rows"), "combine", FLAT_ROWS, ranks(2), does("update"), 2, ranks(0)),
    Scene(("ht/combine_exact.cuh", "combine_row"), "combine", EM_ROWS, ranks(1), does("update", EM_ROWS), 1,
          ranks(0, 2, 3), group={"exact_combine": True}),
    Scene(("ht/combine.cuh", "combine_row"), "combine", FLAT_ROWS, ranks(1), does("update"), 1,
          ranks(0, 2, 3), how={"recipe": ep.CombineQuantizationRecipe.FP8}),
    # Rank 0 collects the gradients of rank 2's tokens.
    Scene(("ht/combine_remote.cuh", "row_weights"), "combine", FLAT_BACKWARD, ranks(1),
          does("combine"), 2, ranks(0), bystanders=ranks(3), sources=ranks(2)),
]  # fmt: skip


def run_with_stopped_warps(
    make_cluster: Any,
    seed: int,
    make_exchange: Callable[[Any], Exchange],
    config: ep.GroupConfig,
    call: str,
    stop: Callable[[Any], None],
    **options: int,
) -> list[str]:
    """A part of rank 1 stops during a call, which the rest of it waits for."""
    cluster = make_cluster(2, seed, **options)

    def main(rank: Any) -> str:
        with ep.Group(rank.comm, config) as group:
            mine = make_exchange(rank)
            handle = mine.make_handle(group)
            rank.synchronize()
            rank.barrier()
            if rank.rank == 1:
                stop(cluster.sim)
            rank.barrier()
            getattr(mine, call)(handle)
            if rank.rank == 0:  # it waits for rank 1, whose kernel cannot end
                rank.synchronize()
                cluster.sim.wake(1)
            rank.synchronize()
            return fault(rank, group, partial(mine.dispatch, handle)) if group.async_error() else ""

    said: list[str] = cluster.run(main)
    return said


def own_blocks(make_cluster: Any, seed: int) -> list[str]:
    """The second block of an update does not say what it has counted."""
    problem = make_problem(Shape(max_tokens=300, tokens=(300, 300), hidden=8), seed)
    config = group_config(problem, FLAT_LARGE, timeout_ns=TIMEOUT_NS)
    make_exchange = partial(Exchange, problem=problem, mode=FLAT_LARGE)

    def stop(sim: Any) -> None:
        sim.stop_warps(1, first_block=1)

    return run_with_stopped_warps(make_cluster, seed, make_exchange, config, "update", stop)


def own_tokens(make_cluster: Any, seed: int) -> list[str]:
    """The warps that quantize tokens stop when they have begun; those that push wait for them."""
    rows = quantized_rows(256)
    problem = make_problem(Shape(max_tokens=40, tokens=(40, 40), no_route=0), seed)
    config = config_for(problem, FLAT_LARGE, [rows], timeout_ns=TIMEOUT_NS)
    make_exchange = partial(ScaledExchange, problem=problem, mode=FLAT_LARGE, rows=rows)

    def act(moment: int, cluster_seed: int) -> list[str]:
        def stop(sim: Any) -> None:
            sim.stop_warps(1, first_warp=1, after=moment)

        return run_with_stopped_warps(
            make_cluster, cluster_seed, make_exchange, config, "dispatch", stop, **ONE_OF_EACH
        )

    # If they stop before the tokens are theirs to quantize, the warps that push do not begin.
    return at_some_moment(
        act, lambda said: ends_in(said[1], "dispatch_row", ranks(1)), lambda said: any(said), seed
    )


FLAT_LARGE = Mode(FLAT, budget=640)


def tallies(make_cluster: Any, seed: int) -> list[str]:
    """Rank 2 dies when its counts have come through the network, and what its team makes of all has not."""
    mode = Mode(FLAT, budget=8, drop=True, team_size=2)
    found = die_while_awaited(
        lambda cluster_seed: make_cluster(4, cluster_seed, nodes=2, checker=False),
        make_problem(shape_of(2, 2), 1),
        mode,
        2,
        "remote_tallies",
        seed,
    )
    return [said for said, *_ in found]


OWN = [(("ht/counts.cuh", "block_counts"), own_blocks), (("ht/quantize.cuh", "dispatch_row"), own_tokens)]
FAULTS = [scene.fault() for scene in SCENES] + [
    Fault(site, ranks(1), run_own, ranks(1)) for site, run_own in OWN
]
FAULTS.append(Fault(("ht/update_remote.cuh", "remote_tallies"), ranks(2), tallies, ranks(0), ranks(1)))


@pytest.mark.parametrize("wait", FAULTS, ids=str)
def test_a_wait_in_vain_is_an_error_that_names_it(make_cluster: Any, wait: Fault, seed: int) -> None:
    wait.check(make_cluster, seed)
