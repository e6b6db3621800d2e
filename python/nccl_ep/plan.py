# SPDX-License-Identifier: Apache-2.0
"""What a group and its handles will take of memory, before there are any. No GPU is needed.

``python -m nccl_ep.plan --tokens 4096 --ranks 8 --experts 256 --top-k 8 --hidden 7168`` shows it as a table;
with ``--nodes 2`` the ranks form two LSA teams.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.table import Table

from nccl_ep._arguments import positive
from nccl_ep._extensions import extension
from nccl_ep._output import Output
from nccl_ep.config import GroupConfig, HandleConfig
from nccl_ep.dtypes import DataType
from nccl_ep.enums import Algorithm, Layout, OverflowPolicy
from nccl_ep.errors import Error

__all__ = ["MemoryKind", "MemoryPiece", "memory_plan"]

NUM_SMS = 132
"""Of the GPU that a plan is for: an H100 or H200."""


class MemoryKind(IntEnum):
    """Where memory is: what other ranks reach, other device memory, or pinned host memory."""

    WINDOW = 0
    DEVICE = 1
    PINNED = 2


@dataclass(frozen=True)
class MemoryPiece:
    """A piece of the memory of one rank.

    Attributes:
        name: what is in it.
        kind: where it is.
        of_handle: every handle has it; else the group.
        num_bytes: its size.
    """

    name: str
    kind: MemoryKind
    of_handle: bool
    num_bytes: int


def memory_plan(
    config: GroupConfig,
    num_ranks: int,
    layout: Layout | int,
    num_topk: int,
    *,
    team_size: int | None = None,
    handle_config: HandleConfig | None = None,
    num_sms: int = NUM_SMS,
) -> list[MemoryPiece]:
    """What each rank takes for a group, and for a handle of it.

    Args:
        config: the group's.
        num_ranks: how many ranks the group will have.
        layout: the handle's.
        num_topk: the handle's top-k.
        team_size: ranks of an LSA team; default: all of them.
        handle_config: the handle's options.
        num_sms: SMs of the GPU.

    Raises:
        InvalidArgument: as making the group or the handle would.
        InvalidUsage: the same.

    Example:
        >>> config = GroupConfig(num_experts=8, max_dispatch_tokens_per_rank=16, max_token_bytes=256)
        >>> [piece.kind.name for piece in memory_plan(config, 2, Layout.RANK_MAJOR, 2) if not piece.of_handle]
        ['WINDOW', 'WINDOW', 'WINDOW', 'WINDOW', 'WINDOW', 'DEVICE', 'PINNED']
    """
    plan = extension("nccl_ep_plan.h")
    ffi = plan.ffi
    pieces: list[MemoryPiece] = []

    def on_piece(piece: Any, _context: Any) -> None:
        name = ffi.string(piece.name).decode()
        pieces.append(MemoryPiece(name, MemoryKind(int(piece.kind)), bool(piece.of_handle), int(piece.bytes)))

    c_config = ffi.cast("ncclEpGroupConfig_t*", config.c)
    c_handle = ffi.cast("ncclEpHandleConfig_t*", handle_config.c) if handle_config else ffi.NULL
    team_size = num_ranks if team_size is None else team_size
    plan.visit(
        "ncclEpMemoryVisitor_t",
        on_piece,
        lambda visitor: plan.c.ncclEpPlanMemory(
            c_config, num_ranks, team_size, num_sms, int(layout), c_handle, num_topk, visitor, ffi.NULL
        ),
    )
    return pieces


# ---- The command line ----

ALGORITHMS = {"ll": Algorithm.LOW_LATENCY, "ht": Algorithm.HIGH_THROUGHPUT}
LAYOUTS = {"em": Layout.EXPERT_MAJOR, "rm": Layout.RANK_MAJOR, "fl": Layout.FLAT}
OVERFLOW = {"trap": OverflowPolicy.TRAP, "drop": OverflowPolicy.DROP}
DTYPES = {"bf16": DataType.BFLOAT16, "fp16": DataType.FLOAT16, "fp32": DataType.FLOAT32}


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; returns the exit code: 0 done, 1 refused, or not to be printed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    options.ranks = options.ranks or options.nodes * options.gpus_per_node
    if options.ranks % options.nodes:
        parser.error(f"--nodes {options.nodes}: expected a divisor of the {options.ranks} ranks")
    if options.algorithm == "ll":
        _check_low_latency(options, parser)
    output = Output("nccl_ep.plan", Console())
    try:
        pieces = _planned(options)
    except (Error, OverflowError) as error:
        output.say(str(error), style="red")
        return 1
    output.show(_table(pieces, f"memory of each rank, of {options.ranks} on {_nodes(options.nodes)}"))
    return 1 if output.is_full else 0


def _check_low_latency(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    for name in ("budget", "eager", "alignment", "overflow"):
        value = getattr(options, name)
        if value:
            option = f"--{name}" if value is True else f"--{name} {value}"
            parser.error(f"{option}: expected --algorithm ht; low latency has no such option")


def _nodes(count: int) -> str:
    return "1 node" if count == 1 else f"{count} nodes"


def _planned(options: argparse.Namespace) -> list[MemoryPiece]:
    config = GroupConfig(
        algorithm=ALGORITHMS[options.algorithm],
        num_experts=options.experts,
        max_dispatch_tokens_per_rank=options.tokens,
        max_recv_tokens_per_rank=options.budget or 0,
        max_token_bytes=options.hidden * DTYPES[options.dtype].itemsize,
        max_num_sms=options.sms,
        overflow_policy=OVERFLOW[options.overflow or "trap"],
        num_topk=options.topk,
        enable_mask=options.mask,
        exact_combine=options.exact,
    )
    layout = options.layout or ("fl" if options.algorithm == "ht" and not options.exact else "em")
    handle_config = HandleConfig(options.alignment or 1)
    return memory_plan(
        config, options.ranks, LAYOUTS[layout], options.topk, team_size=options.ranks // options.nodes,
        handle_config=handle_config, num_sms=options.device_sms,
    )  # fmt: skip


def _table(pieces: Iterable[MemoryPiece], title: str) -> Table:
    table = Table("of", "memory", "what", title=title, header_style="bold", pad_edge=False)
    table.add_column("bytes", justify="right")
    table.add_column("MiB", justify="right")
    for of_handle in (False, True):
        mine = [piece for piece in pieces if piece.of_handle == of_handle]
        owner = "each handle" if of_handle else "the group"
        for piece in mine:
            table.add_row(owner, piece.kind.name.lower(), piece.name, *_sizes(piece.num_bytes))
        for kind in dict.fromkeys(piece.kind for piece in mine):
            total = sum(piece.num_bytes for piece in mine if piece.kind == kind)
            table.add_row(owner, kind.name.lower(), "all together", *_sizes(total), style="bold")
        table.add_section()
    return table


def _sizes(num_bytes: int) -> tuple[str, str]:
    return f"{num_bytes:,}", f"{num_bytes / 2**20:,.2f}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nccl_ep.plan", description=__doc__)
    add = parser.add_argument
    algorithm = "low latency or high throughput; default %(default)s"
    add("--algorithm", choices=sorted(ALGORITHMS), default="ht", help=algorithm)
    add("--layout", choices=sorted(LAYOUTS), help="default: fl in high throughput, em in low latency")
    add("--nodes", type=positive, default=1, metavar="N", help="LSA teams; default 1")
    ranks = parser.add_mutually_exclusive_group()
    ranks.add_argument("--ranks", type=positive, metavar="N", help="of all nodes together")
    ranks.add_argument("--gpus-per-node", type=positive, default=8, metavar="N", help="instead; default 8")
    add("--tokens", type=positive, required=True, metavar="N", help="that a rank dispatches at most")
    add("--hidden", type=positive, required=True, metavar="N", help="elements of a row")
    add("--experts", type=positive, required=True, metavar="N", help="of all ranks together")
    add_top_k(parser, type=positive, required=True, metavar="N", help="routes of a token")
    add("--dtype", choices=sorted(DTYPES), default="bf16", help="of elements; default %(default)s")
    add("--alignment", type=positive, metavar="N", help="of each expert's rows; default 1")
    overflow = (
        "of rows beyond --budget: an error, or some are dropped, which takes room to number them all; "
        "default trap"
    )
    add("--overflow", choices=sorted(OVERFLOW, reverse=True), help=overflow)
    add("--exact", action="store_true", help="a group with exact_combine, which has layout em")
    add("--mask", action="store_true", help="a group with enable_mask, which goes on without lost ranks")
    add("--sms", type=positive, default=0, metavar="N", help="most SMs to use; default: the library chooses")
    add("--device-sms", type=positive, default=NUM_SMS, metavar="N", help=f"of the GPU; default {NUM_SMS}")
    rows = parser.add_mutually_exclusive_group()
    rows.add_argument("--budget", type=positive, metavar="N", help="rows that a rank may receive")
    rows.add_argument("--eager", action="store_true", help="no budget: as many as there are; the default")
    return parser


def add_top_k(parser: argparse.ArgumentParser, **options: Any) -> None:
    """Adds ``--top-k``, which was once ``--topk`` and still answers to it, though no help says so."""
    action = parser.add_argument("--top-k", "--topk", dest="topk", **options)
    action.option_strings = ["--top-k"]


if __name__ == "__main__":
    sys.exit(main())
