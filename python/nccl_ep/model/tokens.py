# SPDX-License-Identifier: Apache-2.0
"""Where the tokens of a routing go: how many, from each rank to each other one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Counts = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Tokens:
    """Tokens by source and destination. Counts need not be whole where they are expected ones.

    Attributes:
        team_size: ranks of an LSA team.
        at_ranks: ``[rank, rank, top-k + 1]``: tokens of the first rank of which so many experts are on the
            second.
        at_teams: ``[rank, team, top-k + 1]``: tokens of the rank that go to so many ranks of the team.
    """

    team_size: int
    at_ranks: Counts
    at_teams: Counts

    @property
    def num_ranks(self) -> int:
        """Of all teams."""
        return len(self.at_ranks)

    @property
    def num_teams(self) -> int:
        """LSA teams."""
        return self.num_ranks // self.team_size

    @classmethod
    def of_routes(cls, routes: Sequence[Array], num_experts: int, team_size: int) -> Tokens:
        """The tokens of a routing.

        Args:
            routes: each rank's expert ids, integers ``[tokens, top-k]``; -1 is no route. An expert that a
                token names twice counts once.
            num_experts: of all ranks together.
            team_size: ranks of an LSA team.
        """
        counted = [_count(ids, len(routes), num_experts, team_size) for ids in routes]
        return cls(team_size, *(np.stack(counts) for counts in zip(*counted, strict=True)))

    @classmethod
    def expected(cls, sample: Array, tokens: int, num_ranks: int, num_experts: int, team_size: int) -> Tokens:
        """What is to be expected if all ranks' tokens follow the same distribution.

        Args:
            sample: expert ids of some tokens, integers ``[tokens, top-k]``, as for :meth:`of_routes`.
            tokens: of each rank.
            num_ranks: of all teams.
            num_experts: of all ranks together.
            team_size: ranks of an LSA team.
        """
        counted = _count(sample, num_ranks, num_experts, team_size)
        each = [np.stack([counts * (tokens / len(sample))] * num_ranks) for counts in counted]
        return cls(team_size, *each)


def _count(ids: Array, num_ranks: int, num_experts: int, team_size: int) -> tuple[Counts, Counts]:
    """``[rank, top-k + 1]`` and ``[team, top-k + 1]``: tokens by their experts and ranks there."""
    num_topk = ids.shape[1]
    experts_at = _experts_at_ranks(ids, num_ranks, num_experts)
    ranks_of = (experts_at > 0).reshape(-1, num_ranks // team_size, team_size).sum(axis=2)
    return _histogram(experts_at, num_topk), _histogram(ranks_of, num_topk)


def _experts_at_ranks(ids: Array, num_ranks: int, num_experts: int) -> Array:
    """``[token, rank]``: how many experts of the rank a token wants."""
    ordered = np.sort(ids, axis=1)
    is_first = ordered >= 0
    is_first[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
    token, place = np.nonzero(is_first)
    rank = ordered[token, place] // (num_experts // num_ranks)
    flat = np.bincount(token * num_ranks + rank, minlength=len(ids) * num_ranks)
    return np.asarray(flat.reshape(len(ids), num_ranks))


def _histogram(numbers: Array, most: int) -> Counts:
    """``[column, most + 1]``: how often each number stands in the column."""
    return np.stack([(numbers == n).sum(axis=0) for n in range(most + 1)], axis=1).astype(np.float64)
