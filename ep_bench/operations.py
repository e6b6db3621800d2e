# SPDX-License-Identifier: Apache-2.0
"""What is measured: one class an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol

Calls = tuple[Callable[[], None], ...]


def make(calls: Calls) -> None:
    """Makes some calls."""
    for call in calls:
        call()


class Exchange(Protocol):
    """The calls of one library on one rank, with all their arguments bound."""

    @property
    def update(self) -> Callable[[], None]: ...

    @property
    def dispatch(self) -> Callable[[], None]: ...

    @property
    def combine(self) -> Callable[[], None]: ...

    @property
    def alternates(self) -> bool:
        """Whether dispatch and combine are called in turn, as some libraries want it in high throughput."""


class Operation:
    """One thing to measure.

    Attributes:
        name: its name in tables.
        trips: on which ways the tokens' rows cross the links.
        checked: which results tell whether it was done right.
        before, after: calls that are made each time, and are not measured.
        calls: what is measured.
    """

    name: ClassVar[str]
    trips: ClassVar[tuple[str, ...]]
    checked: tuple[str, ...] = ()

    def __init__(self, exchange: Exchange) -> None:
        self.before: Calls = ()
        self.calls = self._calls(exchange)
        self.after: Calls = ()

    def enqueue(self) -> None:
        """Makes the calls that are measured."""
        make(self.calls)

    def enqueue_all(self) -> None:
        """Makes all calls."""
        make((*self.before, *self.calls, *self.after))

    @property
    def has_company(self) -> bool:
        """Whether some calls are not measured."""
        return bool(self.before or self.after)

    def _calls(self, exchange: Exchange) -> Calls:
        raise NotImplementedError


class Update(Operation):
    """The handle takes a new routing."""

    name, trips, checked = "update", (), ("update",)

    def _calls(self, exchange: Exchange) -> Calls:
        return (exchange.update,)


class Dispatch(Operation):
    """Tokens go to the ranks of their experts."""

    name, trips, checked = "dispatch", ("dispatch",), ("dispatch",)

    def _calls(self, exchange: Exchange) -> Calls:
        return (exchange.dispatch,)

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        if exchange.alternates:
            self.after = (exchange.combine,)


class Combine(Operation):
    """The experts' rows come back and are summed."""

    name, trips = "combine", ("combine",)
    checked: tuple[str, ...] = ("combine",)

    def _calls(self, exchange: Exchange) -> Calls:
        return (exchange.combine,)

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        if exchange.alternates:
            self.before = (exchange.dispatch,)
            self.checked = ("dispatch", "combine")


class Pair(Operation):
    """Dispatch, and combine behind it."""

    name, trips, checked = "pair", ("dispatch", "combine"), ("dispatch", "combine")

    def _calls(self, exchange: Exchange) -> Calls:
        return (exchange.dispatch, exchange.combine)


class Step(Operation):
    """All that a layer does in one step: update, dispatch, combine."""

    name, trips, checked = "step", ("dispatch", "combine"), ("update", "dispatch", "combine")

    def _calls(self, exchange: Exchange) -> Calls:
        return (exchange.update, exchange.dispatch, exchange.combine)


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation for operation in (Update, Dispatch, Combine, Pair, Step)
}
