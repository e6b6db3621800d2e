# SPDX-License-Identifier: Apache-2.0
"""Draws where rows go in each layout, for docs/concepts.md.

``python docs/figures/data_flow.py`` writes the pictures beside itself; it needs matplotlib. What is drawn is
computed from one routing, and a test compares it with what the library does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Six tokens of two ranks, and their experts: 0 and 1 are on rank 0, 2 and 3 on rank 1.
TOKENS = [["a", "b", "c"], ["x", "y", "z"]]
EXPERTS = {"a": (0, 2), "b": (2, 3), "c": (1, 3), "x": (0, 1), "y": (2, 0), "z": (3, 2)}
LOCAL_EXPERTS = 2
ALIGNMENT = 2  # of the High-Throughput zones
UNUSED, PADDING = "", "0"


@dataclass
class Zone:
    """Consecutive rows of a rank's output, with what they hold after dispatch."""

    name: str
    rows: list[str]

    def padded(self, size: int, filler: str) -> Zone:
        return Zone(self.name, self.rows + [filler] * (size - len(self.rows)))


def all_tokens() -> list[str]:
    return [token for tokens in TOKENS for token in tokens]


def of_expert(expert: int) -> list[str]:
    return [token for token in all_tokens() if expert in EXPERTS[token]]


def on_rank(token: str, rank: int) -> bool:
    return any(expert // LOCAL_EXPERTS == rank for expert in EXPERTS[token])


def experts_of(rank: int) -> range:
    return range(rank * LOCAL_EXPERTS, (rank + 1) * LOCAL_EXPERTS)


def ll_expert_major(rank: int) -> list[Zone]:
    size = sum(map(len, TOKENS))
    return [Zone(f"expert {e}", of_expert(e)).padded(size, UNUSED) for e in experts_of(rank)]


def ll_rank_major(rank: int) -> list[Zone]:
    return [
        Zone(f"from rank {source}", [t for t in tokens if on_rank(t, rank)]).padded(len(tokens), UNUSED)
        for source, tokens in enumerate(TOKENS)
    ]


def ht_flat(rank: int) -> list[Zone]:
    return [Zone("rows", [token for token in all_tokens() if on_rank(token, rank)]).padded(6, UNUSED)]


def ht_expert_major(rank: int) -> list[Zone]:
    zones = [Zone(f"expert {e}", of_expert(e)) for e in experts_of(rank)]
    return [zone.padded(-(-len(zone.rows) // ALIGNMENT) * ALIGNMENT, PADDING) for zone in zones]


PICTURES = {
    "ll-expert-major": (ll_expert_major, "Low Latency, expert-major: a zone of R x B rows for each expert"),
    "ll-rank-major": (ll_rank_major, "Low Latency, rank-major: a zone of B rows for each source rank"),
    "ht-flat": (ht_flat, "High Throughput, flat: one list, a row for each token"),
    "ht-expert-major": (ht_expert_major, "High Throughput, expert-major: zones as long as needed, padded"),
}


# ---- Drawing ----

BLUES, ORANGES = ["#9ecae1", "#6baed6", "#3182bd"], ["#fdd0a2", "#fdae6b", "#e6550d"]
COLOURS = dict(zip(all_tokens(), BLUES + ORANGES, strict=True))
HEIGHT, WIDTH, GAP = 1.0, 2.4, 0.9
ARROW = {"arrowstyle": "-|>", "mutation_scale": 9, "shrinkA": 0, "shrinkB": 0}


def box(axes: Any, x: float, y: float, text: str, colour: str = "white", width: float = WIDTH) -> None:
    from matplotlib.patches import Rectangle

    style = "--" if text == UNUSED else "-"
    hatch = "///" if text == PADDING else None
    look = {"facecolor": colour, "edgecolor": "#555", "ls": style, "hatch": hatch}
    axes.add_patch(Rectangle((x, y), width, HEIGHT, **look, zorder=3))  # in front of arrows
    axes.text(x + width / 2, y + HEIGHT / 2, text, ha="center", va="center", fontsize=8, zorder=4)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], **style: Any) -> None:
    from matplotlib.patches import FancyArrowPatch

    axes.add_patch(FancyArrowPatch(start, end, **{**ARROW, "color": "#444", "lw": 1, **style}))


def draw_tokens(axes: Any, rank: int, top: float) -> dict[str, tuple[float, float]]:
    """A rank's tokens with their experts; where each one's arrows begin."""
    axes.text(0, top + 0.35, f"rank {rank}: tokens", fontsize=8, weight="bold")
    starts = {}
    for i, token in enumerate(TOKENS[rank]):
        y = top - HEIGHT * (i + 1)
        box(axes, 0, y, token, COLOURS[token])
        experts = ", ".join(map(str, EXPERTS[token]))
        axes.text(-0.3, y + HEIGHT / 2, f"to {experts}", ha="right", va="center", fontsize=7)
        starts[token] = (WIDTH, y + HEIGHT / 2)
    return starts


def draw_zones(
    axes: Any, rank: int, zones: list[Zone], x: float, top: float
) -> Iterator[tuple[str, float, float]]:
    """A rank's output, its zones side by side; yields each token's rows, the first one first."""
    axes.text(x, top + 1.1, f"rank {rank}: output of dispatch", fontsize=8, weight="bold")
    for zone in zones:
        axes.text(x + WIDTH / 2, top + 0.3, zone.name, ha="center", fontsize=7)
        for i, token in enumerate(zone.rows):
            box(axes, x, top - HEIGHT * (i + 1), token, COLOURS.get(token, "white"))
            if token in COLOURS:
                yield token, x, top - HEIGHT * (i + 0.5)
        x += WIDTH + GAP


def draw_layout(layout: Any, title: str) -> Any:
    """One picture: tokens on the left, outputs on the right; a line for each row that travels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained", facecolor="white")
    axes = figure.subplots()
    outputs = [layout(rank) for rank in range(len(TOKENS))]
    step = max(len(zone.rows) for zones in outputs for zone in zones) + 2.6
    starts: dict[str, tuple[float, float]] = {}
    for rank in range(len(TOKENS)):
        starts |= draw_tokens(axes, rank, -rank * step)
    for rank, zones in enumerate(outputs):
        arrived: dict[str, tuple[float, float]] = {}
        for token, x, y in draw_zones(axes, rank, zones, 9, -rank * step):
            if token in arrived:  # the receiver's own copy
                arrow(axes, arrived[token], (x, y), ls=":", lw=1.2)
            else:
                arrow(axes, starts[token], (x, y), color=COLOURS[token], lw=1.5)
            arrived.setdefault(token, (x + WIDTH, y))
    axes.set_title(title, fontsize=9)
    axes.set_xlim(-2.6, 9 + 2 * (WIDTH + GAP))
    axes.set_ylim(1.8 - 2 * step, 2.2)
    axes.axis("off")
    return figure


def draw_teams() -> Any:
    """A token of rank 0 with experts on ranks 1, 2 and 3, of two LSA teams."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.9), layout="constrained", facecolor="white")
    network = {"color": "#e6550d", "lw": 2}
    memory = {"color": "#3182bd", "lw": 2}
    routes = {
        "Low Latency: a row for each rank": [((0, 1), memory), ((0, 2), network), ((0, 3), network)],
        "High Throughput: one for each team,\npassed on inside it": [
            ((0, 1), memory),
            ((0, 2), network),
            ((2, 3), memory),
        ],
    }
    places = {0: (0, 3), 1: (0, 0), 2: (6, 3), 3: (6, 0)}
    for axes, (title, hops) in zip(figure.subplots(1, 2), routes.items(), strict=True):
        for team, x in (("A", 0), ("B", 6)):
            axes.text(x + WIDTH / 2, 4.5, f"LSA team {team}", ha="center", fontsize=8, weight="bold")
        for rank, (x, y) in places.items():
            box(axes, x, y, f"rank {rank}", COLOURS["a"] if rank == 0 else "white")
        for (source, to), style in hops:
            (x0, y0), (x1, y1) = places[source], places[to]
            if x0 == x1:
                arrow(axes, (x0 + WIDTH / 2, y0), (x1 + WIDTH / 2, y1 + HEIGHT), **style)
            else:
                arrow(axes, (x0 + WIDTH, y0 + HEIGHT / 2), (x1, y1 + HEIGHT / 2), **style)
        axes.text(4.2, -1.1, "blue: NVLink, orange: network (rank 0 to 2: a rail)", ha="center", fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.set_xlim(-0.5, 9)
        axes.set_ylim(-1.6, 5.2)
        axes.axis("off")
    return figure


def main() -> None:
    import matplotlib

    # Text stays text, and the picture is the same each time.
    matplotlib.rcParams.update({"svg.hashsalt": "nccl_ep", "svg.fonttype": "none"})
    figures = {name: draw_layout(layout, title) for name, (layout, title) in PICTURES.items()}
    for name, figure in {**figures, "teams": draw_teams()}.items():
        figure.savefig(Path(__file__).with_name(f"flow-{name}.svg"), metadata={"Date": None})


if __name__ == "__main__":
    main()
