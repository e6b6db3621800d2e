# SPDX-License-Identifier: Apache-2.0
"""Context managers of objects with a ``close``."""

from __future__ import annotations

from types import TracebackType
from typing import TypeVar

_Self = TypeVar("_Self", bound="Closing")


class Closing:
    """Closed at the end of its ``with`` statement."""

    __slots__ = ()

    def close(self) -> None:
        """Frees what the object owns."""
        raise NotImplementedError

    def __enter__(self: _Self) -> _Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
