# SPDX-License-Identifier: Apache-2.0
"""Where kernels wait, read from their sources, and tests that a wait ends in vain there.

A *site* is a template and the name of a wait in it, as :file:`waits.hpp` has them. The tables of faults name
the sites that they are for, so a wait that is added without a fault is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from both import check_accusations
from nccl_ep import paths

Site = tuple[str, str]
LIST = "shared/waits.hpp"
NO_WAIT = "none"  # of records that are about something else
FIRST_MOMENT, LAST_MOMENT = 100, 100_000  # before and after all that one of these tests' calls does
NUM_SEARCHES = 20


def sentences() -> dict[str, str]:
    """What was awaited, in the words of messages, by the waits' names."""
    text = (Path(paths.template_dir()) / LIST).read_text()
    return dict(re.findall(r"^ +X\((\w+), \"(.+)\"\)", text, re.MULTILINE))


def sites() -> set[Site]:
    """Where kernels wait."""
    root = Path(paths.template_dir())
    found = set()
    for source in sorted(root.rglob("*.*h*")):
        name = source.relative_to(root).as_posix()
        if name != LIST:
            found |= {(name, wait) for wait in re.findall(r"\bWait::(\w+)", source.read_text())}
    return {site for site in found if site[1] != NO_WAIT}


@dataclass(frozen=True)
class Fault:
    """Something that makes a wait end in vain.

    Attributes:
        site: which.
        missing: the ranks that do not send what is awaited.
        run: has it happen on a cluster from ``make_cluster``, with a seed; what each rank says, "" for those
            that are missing.
        witnesses: who must end in this wait, rather than in another one. None: all others; empty: somebody.
        bystanders: those who wait for nobody, and say nothing. Where somebody is witness, others may be.
    """

    site: Site
    missing: frozenset[int]
    run: Callable[[Any, int], list[str]]
    witnesses: frozenset[int] | None = None
    bystanders: frozenset[int] = frozenset()

    def __str__(self) -> str:
        return title(self.site)

    def check(self, make_cluster: Any, seed: int) -> None:
        """Each rank's message leads to a missing one, and the witnesses speak of this wait."""
        said = self.run(make_cluster, seed)
        quiet = {rank for rank, message in enumerate(said) if not message}
        bystanders = quiet if self.witnesses == frozenset() else self.bystanders
        assert not any(said[rank] for rank in bystanders), said
        check_accusations(said, {*self.missing, *bystanders})
        check_witnesses(said, self.site[1], self.missing, self.witnesses)


def title(site: Site) -> str:
    template, wait = site
    return f"{template.removesuffix('.cuh')}-{wait}"


def name_of(sentence: str) -> str:
    """The wait that a sentence is about."""
    return next(name for name, words in sentences().items() if words == sentence)


def check_witnesses(
    said: list[str], wait: str, missing: frozenset[int], witnesses: frozenset[int] | None
) -> None:
    """Witnesses, as a fault has them, have awaited this from a missing rank."""
    speak_of_it = {rank for rank, message in enumerate(said) if ends_in(message, wait, missing)}
    others = frozenset(range(len(said))) - missing
    assert speak_of_it, said
    assert speak_of_it >= (others if witnesses is None else witnesses), said


def ends_in(message: str, wait: str, missing: frozenset[int]) -> bool:
    """Whether a message says that this was awaited in vain, from one of these ranks."""
    return any(f" s for {sentences()[wait]} from rank {rank} (" in message for rank in missing)


Found = TypeVar("Found")


def at_some_moment(
    act: Callable[[int, int], Found],
    holds: Callable[[Found], bool],
    is_early: Callable[[Found], bool],
    seed: int,
) -> Found:
    """What ``act(moment, seed)`` returns at a moment for which it holds, between early and late ones.

    Moments are steps of the simulator, at which a rank stops. With one seed, all is the same up to then. If
    there is no such moment with one seed, others are tried.
    """
    for again in range(seed, seed + 1000 * NUM_SEARCHES, 1000):
        first, last = FIRST_MOMENT, LAST_MOMENT
        while last - first > 1:
            moment = max(first + 1, int((first * last) ** 0.5))
            found = act(moment, again)
            if holds(found):
                print("stops after", moment, "steps with seed", again)
                return found
            first, last = (moment, last) if is_early(found) else (first, moment)
        print("at no moment with seed", again)
    raise AssertionError("at no moment with any seed")
