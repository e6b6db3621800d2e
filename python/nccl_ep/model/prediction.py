# SPDX-License-Identifier: Apache-2.0
"""A case on a cluster, and what the model says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nccl_ep.config import GroupConfig
from nccl_ep.enums import Algorithm, Layout, Operation, ZeroCopyMode
from nccl_ep.model.links import Links, busiest, links_of
from nccl_ep.model.pieces import traffic_plan
from nccl_ep.model.times import TERMS, Machine, Time, time_of
from nccl_ep.model.tokens import Tokens


@dataclass(frozen=True)
class Case:
    """What is exchanged.

    Attributes:
        algorithm: of the group.
        layout: of the handle.
        tokens: that each rank dispatches, at most.
        row_bytes: of a token's row.
        num_experts: of all ranks together.
        num_topk: routes of a token.
        windows: high throughput: outputs of dispatch are in windows.
    """

    algorithm: Algorithm
    layout: Layout
    tokens: int
    row_bytes: int
    num_experts: int
    num_topk: int
    windows: bool = True

    def group_config(self) -> GroupConfig:
        """The group that it needs."""
        return GroupConfig(
            algorithm=self.algorithm,
            num_experts=self.num_experts,
            max_dispatch_tokens_per_rank=self.tokens,
            max_token_bytes=self.row_bytes,
            zero_copy=ZeroCopyMode.ON if self.windows else ZeroCopyMode.OFF,
            num_topk=self.num_topk,
        )


@dataclass(frozen=True)
class Prediction:
    """What one operation, or a step of all of them, does to the busiest rank.

    Attributes:
        nodes: LSA teams.
        ranks: of all of them together.
        operation: ``update``, ``dispatch``, ``combine`` or ``step``.
        nvlink_bytes: to or from the other ranks of its team.
        rail_bytes: to or from other teams.
        rail_messages: puts and signals, to or from other teams.
        bound_us: no less with these bytes.
        estimate_us: what is expected.
        limit: what the estimate grows with; of a step, that of its longest operation.
    """

    nodes: int
    ranks: int
    operation: str
    nvlink_bytes: float
    rail_bytes: float
    rail_messages: float
    bound_us: float
    estimate_us: float
    limit: str


def predict(case: Case, machine: Machine, tokens: Tokens) -> list[Prediction]:
    """Bytes and times of each operation in turn, then of all together.

    Args:
        case: what is exchanged.
        machine: what it is sent over.
        tokens: where each rank's tokens go; of the case's number of experts.

    Raises:
        InvalidArgument: as making the group or the handle would.
        InvalidUsage: the same.
    """
    pieces = traffic_plan(case.group_config(), tokens.num_ranks, tokens.team_size, case.layout, case.num_topk)
    rows = []
    for operation, links in sorted(links_of(pieces, tokens).items()):
        time = time_of(links, TERMS[case.algorithm, case.layout, operation], machine)
        rows.append(_prediction(operation, links, time, tokens))
    return [*rows, _step(rows)]


def _prediction(operation: Operation, links: Links, time: Time, tokens: Tokens) -> Prediction:
    return Prediction(
        tokens.num_teams,
        tokens.num_ranks,
        operation.name.lower(),
        busiest(links.nvlink_bytes),
        busiest(links.rail_bytes),
        busiest(links.rail_messages),
        time.bound_us,
        time.estimate_us,
        time.limit,
    )


def _step(rows: Sequence[Prediction]) -> Prediction:
    return Prediction(
        rows[0].nodes,
        rows[0].ranks,
        "step",
        sum(row.nvlink_bytes for row in rows),
        sum(row.rail_bytes for row in rows),
        sum(row.rail_messages for row in rows),
        sum(row.bound_us for row in rows),
        sum(row.estimate_us for row in rows),
        max(rows, key=lambda row: row.estimate_us).limit,
    )
