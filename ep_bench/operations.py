# SPDX-License-Identifier: Apache-2.0
"""What is measured: one class an operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Protocol


class Exchange(Protocol):
    """The calls of one library on one rank, with all their arguments bound."""

    @property
    def update(self) -> Callable[[], None]: ...

    @property
    def dispatch(self) -> Callable[[], None]: ...

    @property
    def combine(self) -> Callable[[], None]: ...


class Operation:
    """One thing to measure.

    Attributes:
        name: its name in tables.
        trips: how often the tokens' rows cross the links.
        checked: which results tell whether it was done right.
    """

    name: ClassVar[str]
    trips: ClassVar[int]
    checked: ClassVar[tuple[str, ...]]

    def __init__(self, exchange: Exchange) -> None:
        self.calls = self._calls(exchange)

    def enqueue(self) -> None:
        """Makes the calls."""
        for call in self.calls:
            call()

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        raise NotImplementedError


class Update(Operation):
    """The handle takes a new routing."""

    name, trips, checked = "update", 0, ()

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        return (exchange.update,)


class Dispatch(Operation):
    """Tokens go to the ranks of their experts."""

    name, trips, checked = "dispatch", 1, ("dispatch",)

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        return (exchange.dispatch,)


class Combine(Operation):
    """The experts' rows come back and are summed."""

    name, trips, checked = "combine", 1, ("combine",)

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        return (exchange.combine,)


class Pair(Operation):
    """Dispatch, and combine behind it."""

    name, trips, checked = "pair", 2, ("dispatch", "combine")

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        return (exchange.dispatch, exchange.combine)


class Step(Operation):
    """All that a layer does in one step: update, dispatch, combine."""

    name, trips, checked = "step", 2, ("dispatch", "combine")

    def _calls(self, exchange: Exchange) -> tuple[Callable[[], None], ...]:
        return (exchange.update, exchange.dispatch, exchange.combine)


OPERATIONS: dict[str, type[Operation]] = {
    operation.name: operation for operation in (Update, Dispatch, Combine, Pair, Step)
}
