# SPDX-License-Identifier: Apache-2.0
"""The pictures of docs/concepts.md show what dispatch does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ht
import ll
import nccl_ep as ep
import numpy as np
import pytest
from oracle import Problem

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "figures"))

import data_flow as flow

FIGURES = Path(flow.__file__).parent
HIDDEN = 4
LETTERS = {ll.POISON: flow.UNUSED, 0.0: flow.PADDING} | dict(enumerate(flow.all_tokens(), 1))
NUMBERS = {letter: number for number, letter in LETTERS.items()}
PROBLEM = Problem(
    num_experts=flow.LOCAL_EXPERTS * len(flow.TOKENS),
    max_tokens=max(map(len, flow.TOKENS)),
    tokens=[np.array([[NUMBERS[t]] * HIDDEN for t in tokens], np.float32) for tokens in flow.TOKENS],
    topk_idx=[np.array([flow.EXPERTS[t] for t in tokens]) for tokens in flow.TOKENS],
    topk_weights=[np.full((len(tokens), 2), 0.5, np.float32) for tokens in flow.TOKENS],
)
MODES = {
    "ll-expert-major": ll.EM,
    "ll-rank-major": ll.RM,
    "ht-flat": ht.Mode(ht.FLAT, budget=6),
    "ht-expert-major": ht.Mode(ht.EM, budget=8, alignment=flow.ALIGNMENT),
}


@pytest.mark.parametrize("name", flow.PICTURES)
def test_the_picture_shows_what_dispatch_does(make_cluster: Any, name: str) -> None:
    mode = MODES[name]

    def main(rank: Any) -> Any:
        high = isinstance(mode, ht.Mode)
        config = ht.group_config(PROBLEM, mode) if high else ll.group_config(PROBLEM)
        mine = (ht if high else ll).Exchange(rank, PROBLEM, mode)
        with ep.Group(rank.comm, config) as group, mine.make_handle(group) as handle:
            mine.dispatch(handle)
            return rank.read(mine.received)

    for rank, received in enumerate(make_cluster(len(flow.TOKENS)).run(main)):
        shown = [token for zone in flow.PICTURES[name][0](rank) for token in zone.rows]
        rows = [LETTERS[row[0]] for row in received.reshape(-1, HIDDEN)[: len(shown)].tolist()]
        assert rows == shown, f"rank {rank}"


@pytest.mark.parametrize("name", [*flow.PICTURES, "teams"])
def test_the_picture_is_there(name: str) -> None:
    """Its letters as well: whoever changes the routing draws the pictures anew."""
    picture = (FIGURES / f"flow-{name}.svg").read_text()
    page = (FIGURES.parent / "concepts.md").read_text()
    assert f"(figures/flow-{name}.svg)" in page
    if name in flow.PICTURES:
        zones = [zone for rank in range(len(flow.TOKENS)) for zone in flow.PICTURES[name][0](rank)]
        drawn = [token for zone in zones for token in zone.rows if token in flow.EXPERTS]
        for token in flow.EXPERTS:
            assert picture.count(f">{token}</text>") == 1 + drawn.count(token), token
