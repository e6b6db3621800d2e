# SPDX-License-Identifier: Apache-2.0
"""Row: one measured number with everything it depends on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from ep_bench.cases import Case
from ep_bench.library import Library
from ep_bench.statistics import Ratio


@dataclass(frozen=True)
class Setup:
    """What all rows of a run have in common, as rank 0 sees it.

    Attributes:
        device: ``cuda`` or ``sim``.
        description: what the device is, for people.
        versions: of what is involved, by name.
        ceilings: GB/s that a bare push of rows over the links reaches with so many SMs at most; 0: with any.
        notes: what the reader should know.
    """

    device: str
    ranks: int
    lsa_team_size: int
    nodes: int
    description: str
    versions: dict[str, str]
    ceilings: dict[int, float]
    notes: list[str]


@dataclass(frozen=True)
class Row:
    """A row of the results. The field names up to ``seed`` are the keys of the JSON output, and in high
    throughput those up to ``dropped_rows``: of all ranks together, expert-major without padding.

    Times are None on the simulator, bandwidths also where nothing crosses a link. Bytes are per rank, mean
    over ranks.
    """

    device: str
    ranks: int
    lsa_team_size: int
    nodes: int
    algorithm: str
    layout: str
    op: str
    mode: str
    tokens: int
    hidden: int
    top_k: int
    experts: int
    dtype: str
    recipe: str
    zero_copy: bool
    sms: int
    p50_us: float | None
    p99_us: float | None
    remote_bytes: float
    ideal_remote_bytes: float
    remote_gbps: float | None
    ceiling_gbps: float | None
    verified: bool
    library: str
    library_version: str
    seed: int
    # Of high throughput, None in low latency:
    pass_direction: str | None
    eager: bool | None
    budget: int | None
    alignment: int | None
    overflow: str | None
    dropped_rows: int | None
    # Beside the table's keys:
    routing: str
    mask: bool
    host_call_us: float | None = None
    ratio: Ratio | None = None

    def as_dict(self, *, verbose: bool = False) -> dict[str, Any]:
        """For JSON and CSV. ``verbose`` adds what is beside the keys."""
        names = [*KEYS, *((*HT_NAMES, "dropped_rows") if self.algorithm == "ht" else ())]
        names += VERBOSE_NAMES if verbose else ()
        values = {name: getattr(self, name) for name in names}
        if verbose:
            for name in ("median", "low", "high"):
                values[f"ratio_{name}"] = getattr(self.ratio, name) if self.ratio else None
        return values


HT_NAMES = ("pass_direction", "eager", "budget", "alignment", "overflow")
VERBOSE_NAMES = ("routing", "mask", "host_call_us")
SETTING_NAMES = ("hidden", "top_k", "experts", "dtype", "routing", "sms", "zero_copy", "mask", *HT_NAMES)
CASE_NAMES = ("algorithm", "layout", "tokens", *SETTING_NAMES)
"""What tells the cases of a sweep apart."""

KEYS = [field.name for field in fields(Row)][: [field.name for field in fields(Row)].index("seed") + 1]
"""The keys of the JSON output, in order."""


@dataclass(frozen=True)
class Measured:
    """What was found out about one operation of one library.

    Attributes:
        p50_us, p99_us: of the slowest rank; None where there is no time.
        host_call_us: how long a call keeps the host, or None where that was not measured.
        remote_bytes: bytes over links for one operation, if they were counted.
        ratio: to the same measurement of the library under test, for the library it is compared with.
    """

    verified: bool
    p50_us: float | None = None
    p99_us: float | None = None
    host_call_us: float | None = None
    remote_bytes: float | None = None
    ratio: Ratio | None = None


def _ht_settings(case: Case) -> dict[str, Any]:
    if case.algorithm != "ht":
        return dict.fromkeys(HT_NAMES)
    return {name: getattr(case, name) for name in HT_NAMES} | {"budget": case.budget or None}


@dataclass(frozen=True)
class Routed:
    """What the routing says of an operation.

    Attributes:
        ideal_bytes: to other ranks, at the least.
        computed_bytes: to other ranks, as this library sends them.
        num_dropped: rows that find no room.
    """

    ideal_bytes: float
    computed_bytes: float
    num_dropped: int = 0


def make_row(
    setup: Setup, case: Case, op: str, mode: str, library: Library, measured: Measured, routed: Routed
) -> Row:
    """Puts a row together."""
    remote_bytes = routed.computed_bytes if measured.remote_bytes is None else measured.remote_bytes
    timed = bool(measured.p50_us) and remote_bytes > 0
    return Row(
        device=setup.device,
        ranks=setup.ranks,
        lsa_team_size=setup.lsa_team_size,
        nodes=setup.nodes,
        algorithm=case.algorithm,
        layout=case.layout,
        op=op,
        mode=mode,
        tokens=case.tokens,
        hidden=case.hidden,
        top_k=case.top_k,
        experts=case.experts,
        dtype=case.dtype,
        recipe=case.recipe.name,
        zero_copy=case.zero_copy,
        sms=case.sms,
        p50_us=measured.p50_us,
        p99_us=measured.p99_us,
        remote_bytes=remote_bytes,
        ideal_remote_bytes=routed.ideal_bytes,
        remote_gbps=remote_bytes / (measured.p50_us * 1e3) if timed and measured.p50_us else None,
        ceiling_gbps=setup.ceilings.get(case.sms),
        verified=measured.verified,
        library=library.name,
        library_version=library.version,
        seed=case.seed,
        **_ht_settings(case),
        dropped_rows=routed.num_dropped if case.algorithm == "ht" else None,
        routing=case.routing,
        mask=case.mask,
        host_call_us=measured.host_call_us,
        ratio=measured.ratio,
    )
