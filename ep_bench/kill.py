# SPDX-License-Identifier: Apache-2.0
"""``--kill``: which rank dies when, and what became of the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ep_bench.exits import Exit, UsageError


@dataclass(frozen=True)
class Kill:
    """A rank that dies as an iteration, counted from 0, begins."""

    rank: int
    iteration: int

    def __str__(self) -> str:
        return f"{self.rank}@{self.iteration}"


def kill_of(text: str) -> Kill:
    """Reads ``RANK@ITER``."""
    rank, at, iteration = text.partition("@")
    if not (at and rank.isdecimal() and iteration.isdecimal()):
        raise UsageError(f"{text!r}: expected RANK@ITER, two numbers")
    return Kill(int(rank), int(iteration))


def check_kill(kill: Kill, num_ranks: int, num_iters: int) -> None:
    """UsageError if there is no such rank or iteration."""
    if not 0 < kill.rank < num_ranks:
        raise UsageError(f"--kill {kill}: expected a rank from 1 to {num_ranks - 1}; rank 0 reports")
    if not 0 < kill.iteration < num_iters:
        raise UsageError(f"--kill {kill}: expected an iteration from 1 to {num_iters - 1}, of {num_iters}")


@dataclass(frozen=True)
class Survivor:
    """What one of the others has to say.

    Attributes:
        rank: which.
        usual_us: an iteration, the median.
        longest_us: the longest iteration from the one before on.
        masked: whom it has masked.
        loss: what the library said when it noticed; None: it did not.
        wrong: what is wrong with its results; None: nothing.
    """

    rank: int
    usual_us: float
    longest_us: float
    masked: list[int]
    loss: str | None
    wrong: str | None


@dataclass(frozen=True)
class Aftermath:
    """How a run ended in which a rank died.

    Attributes:
        what: the case.
        kill: who, and when.
        timeout_ns: how long kernels waited for a rank.
        survivors: by rank.
    """

    what: str
    kill: Kill
    timeout_ns: int
    survivors: Sequence[Survivor]

    @property
    def longest_us(self) -> float:
        return max(survivor.longest_us for survivor in self.survivors)

    @property
    def wrong(self) -> list[str]:
        """What is not as it must be."""
        found = [f"rank {it.rank}: {it.wrong}" for it in self.survivors if it.wrong]
        for it in self.survivors:
            if it.masked != [self.kill.rank]:
                found.append(f"rank {it.rank} has masked {it.masked}, expected [{self.kill.rank}]")
            if it.loss is None:
                found.append(f"rank {it.rank} reports no loss")
        return found

    @property
    def exit_code(self) -> Exit:
        return Exit.WRONG_DATA if self.wrong else Exit.OK

    def lines(self) -> list[str]:
        """For people."""
        usual_us = max(survivor.usual_us for survivor in self.survivors)
        timeouts = self.longest_us * 1e3 / self.timeout_ns
        lines = [
            self.what,
            f"rank {self.kill.rank} died as iteration {self.kill.iteration} began",
            f"the longest iteration of another rank took {self.longest_us:,.1f} µs, {timeouts:.2f} x the "
            f"{self.timeout_ns * 1e-9:g} s that kernels wait; {usual_us:,.1f} µs are usual",
            *(it.loss for it in self.survivors if it.loss),
        ]
        if self.wrong:
            return lines + [f"WRONG: {problem}" for problem in self.wrong]
        return [*lines, f"all others have masked rank {self.kill.rank}, and their results are right"]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "case": self.what,
            "killed_rank": self.kill.rank,
            "killed_at": self.kill.iteration,
            "timeout_ns": self.timeout_ns,
            "longest_us": self.longest_us,
            "verified": not self.wrong,
            "survivors": [asdict(survivor) for survivor in self.survivors],
        }

    def write_json(self, target: str) -> None:
        """To a file or ``-``, standard output."""
        text = json.dumps(self.as_dict(), indent=1) + "\n"
        if target == "-":
            print(text, end="", flush=True)
        else:
            Path(target).write_text(text)
