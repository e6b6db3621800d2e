# SPDX-License-Identifier: Apache-2.0
"""What every rank does: all cases, each library, each operation, each mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import product
from typing import Protocol

import nccl_ep

from ep_bench.cases import Case
from ep_bench.devices.face import Device, Peers
from ep_bench.exits import UsageError
from ep_bench.expect import WrongData
from ep_bench.library import Library
from ep_bench.measure import Meter
from ep_bench.operations import OPERATIONS
from ep_bench.options import Options
from ep_bench.rows import Measured, Routed, Row, Setup, make_row
from ep_bench.subject import Subject
from ep_bench.traffic import computed_remote_bytes, ideal_remote_bytes

OWN_NAME = "nccl_ep"


class Audience(Protocol):
    """Who is told how it goes. Rank 0 has a screen, the others have nobody."""

    def begin(self, setup: Setup, num_steps: int) -> None: ...

    def now(self, what: str) -> None:
        """What is being done from here on."""

    def advance(self) -> None:
        """A step is done."""

    def complain(self, text: str) -> None:
        """Something is wrong or left out."""


def libraries(options: Options, device: Device, stack: ExitStack) -> list[Library]:
    """The library under test, and the one it is compared with. Collective."""
    codes = [nccl_ep.Library()] + ([nccl_ep.Library(options.compare)] if options.compare else [])
    found: list[Library] = []
    for code in codes:
        name = str(options.compare) if found else OWN_NAME
        version = ".".join(map(str, code.version()))
        communicator = stack.enter_context(device.communicator())
        found.append(Library(name, version, code, communicator, ordered=not found))
    return found


@contextmanager
def refusals_of(case: Case) -> Iterator[None]:
    """Makes what the library refuses in a case a UsageError that names the case."""
    try:
        yield
    except (nccl_ep.InvalidArgument, nccl_ep.InvalidUsage) as error:
        raise UsageError(f"{case}: {error}") from None


def open_subject(library: Library, case: Case, device: Device, peers: Peers) -> Subject:
    """The library under test, set up for a case; UsageError if it cannot do it. Collective."""
    with refusals_of(case):
        return Subject(library, case, device, peers)


class Runner:
    """Runs cases on one rank. Every method is collective.

    Attributes:
        rows: the results so far, the same on all ranks. The caller's, who has them whatever happens.
    """

    def __init__(self, options: Options, device: Device, peers: Peers, meter: Meter, setup: Setup,
                 audience: Audience, rows: list[Row]) -> None:  # fmt: skip
        self.rows = rows
        self._options, self._device, self._peers, self._meter = options, device, peers, meter
        self._setup, self._audience = setup, audience

    def run(self, cases: Sequence[Case], found: list[Library], modes: Sequence[str]) -> None:
        """Measures all cases in these modes."""
        for case in cases:
            self._audience.now(f"{case}: setting up")
            with refusals_of(case), ExitStack() as stack:
                subjects = self._set_up(case, found, stack)
                for mode, op in product(modes, self._options.ops):
                    self._audience.now(f"{case}: {op}, {mode}")
                    results = self._meter.measure(subjects, op, mode)
                    self._keep(case, op, mode, subjects, results)
                    self._audience.advance()

    def _set_up(self, case: Case, found: list[Library], stack: ExitStack) -> list[Subject]:
        """Subjects for the libraries that can do the case; the library under test must."""
        subjects = []
        for library in found:
            if library.name == OWN_NAME:
                subjects.append(stack.enter_context(open_subject(library, case, self._device, self._peers)))
                continue
            reason = library.why_not(case)
            if reason is None:
                reason = self._set_up_other(case, library, subjects, stack)
            if reason is not None:
                self._audience.complain(f"{case}: {library.name} cannot: {reason}")
        return subjects

    def _set_up_other(
        self, case: Case, library: Library, subjects: list[Subject], stack: ExitStack
    ) -> str | None:
        """A subject for a library besides the one under test, or why there is none."""
        reason = None
        # Ranks that are not refused wait in vain for those that are, which their groups say in the end.
        with suppress(nccl_ep.RemoteError), ExitStack() as own:
            try:
                subject = own.enter_context(Subject(library, case, self._device, self._peers))
                reason = subject.why_refused()
            except nccl_ep.Error as error:
                reason = str(error)
            if reason is None:
                stack.push(own.pop_all())
                subjects.append(subject)
        return reason

    def _keep(
        self, case: Case, op: str, mode: str, subjects: list[Subject], results: list[Measured | WrongData]
    ) -> None:
        for subject, result in zip(subjects, results, strict=True):
            if isinstance(result, WrongData):
                self._audience.complain(f"WRONG: {subject.library.name}, {case}, {op}, {mode}: {result}")
                result = Measured(verified=False)
            trips = OPERATIONS[op].trips
            routed = Routed(
                sum(ideal_remote_bytes(subject.inputs, trip) for trip in trips),
                sum(computed_remote_bytes(subject.inputs, trip) for trip in trips),
                subject.inputs.zones.num_dropped,
            )
            self.rows.append(make_row(self._setup, case, op, mode, subject.library, result, routed))
