# SPDX-License-Identifier: Apache-2.0
"""What the operations of a handle send, as the library says it (``nccl_ep_plan.h``)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from nccl_ep._extensions import extension
from nccl_ep.config import GroupConfig
from nccl_ep.enums import Layout, Operation


class TrafficPath(IntEnum):
    """How something travels, and who its receivers are: the peers of a rank.

    LSA is each other rank of the LSA team; LSA_FORWARDED the same, but a rank sends it for the tokens of its
    rail peers as for its own; NETWORK each rank outside the team; RAIL each rail peer, which receives for its
    team; RAIL_FOR_EACH the same, but it is sent for each rank of that team that a token goes to. Rail peers
    are the ranks with the same place in other teams.
    """

    LSA = 0
    LSA_FORWARDED = 1
    NETWORK = 2
    RAIL = 3
    RAIL_FOR_EACH = 4

    @property
    def is_network(self) -> bool:
        """Whether it leaves the LSA team."""
        return self in (TrafficPath.NETWORK, TrafficPath.RAIL, TrafficPath.RAIL_FOR_EACH)


@dataclass(frozen=True)
class TrafficPiece:
    """Something that a rank sends in an operation.

    Attributes:
        name: what it is.
        operation: when it is sent.
        path: how.
        to_home: it goes to the rank whose tokens they are, else from there.
        bytes_per_peer: however many tokens there are.
        bytes_of_token: ``[top-k + 1]``: of a token of which so many experts are at the peer; by rail, which
            goes to so many ranks of the peer's team.
        alignment: what goes to a peer takes a multiple of this.
        messages_per_peer: through the network: puts and lone signals, however many tokens there are.
        tokens_per_message: besides, each put has so many tokens at most; 0: there are no such puts.
    """

    name: str
    operation: Operation
    path: TrafficPath
    to_home: bool
    bytes_per_peer: int
    bytes_of_token: tuple[int, ...]
    alignment: int
    messages_per_peer: int
    tokens_per_message: int


def traffic_plan(
    config: GroupConfig, num_ranks: int, team_size: int, layout: Layout | int, num_topk: int
) -> list[TrafficPiece]:
    """What update, dispatch and combine send, all of them forward, and without dropped rows.

    Args:
        config: the group's. Rows have its ``max_token_bytes``; outputs of dispatch are in windows if its
            ``zero_copy`` is ON.
        num_ranks: how many ranks the group will have.
        team_size: ranks of an LSA team, a divisor of that.
        layout: the handle's.
        num_topk: the handle's top-k.

    Raises:
        InvalidArgument: as making the group or the handle would.
        InvalidUsage: the same.

    Example:
        >>> config = GroupConfig(num_experts=8, max_dispatch_tokens_per_rank=16, max_token_bytes=256)
        >>> [piece.name for piece in traffic_plan(config, 2, 2, Layout.RANK_MAJOR, 2)]
        ['hello', 'counts', 'routes', 'rows', 'hello', 'rows']
    """
    plan = extension("nccl_ep_plan.h")
    ffi = plan.ffi
    pieces: list[TrafficPiece] = []

    def on_piece(piece: Any, _context: Any) -> None:
        pieces.append(
            TrafficPiece(
                name=ffi.string(piece.name).decode(),
                operation=Operation(int(piece.operation)),
                path=TrafficPath(int(piece.path)),
                to_home=bool(piece.to_home),
                bytes_per_peer=int(piece.bytes_per_peer),
                bytes_of_token=tuple(ffi.unpack(piece.bytes_of_token, num_topk + 1)),
                alignment=int(piece.alignment),
                messages_per_peer=int(piece.messages_per_peer),
                tokens_per_message=int(piece.tokens_per_message),
            )
        )

    c_config = ffi.cast("ncclEpGroupConfig_t*", config.c)
    plan.visit(
        "ncclEpTrafficVisitor_t",
        on_piece,
        lambda visitor: plan.c.ncclEpPlanTraffic(
            c_config, num_ranks, team_size, int(layout), num_topk, visitor, ffi.NULL
        ),
    )
    return pieces
