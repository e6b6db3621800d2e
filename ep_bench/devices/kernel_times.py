# SPDX-License-Identifier: Apache-2.0
"""Durations of kernels, from CUPTI through the package cupti-python."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from types import TracebackType
from typing import Any

_BUFFER_BYTES = 8 << 20
_FLUSH_EVERYTHING = 1


def why_missing() -> str | None:
    """Why there cannot be kernel times here, or None if there can. Leaves the process as it is."""
    if find_spec("cupti") is None:
        return "no kernel times: cupti-python is missing (pip install cupti-python)"
    return None


def why_not_working() -> str | None:
    """Why there are no kernel times here, or None if there are. From now on CUPTI is in the process."""
    try:
        with KernelTimes():
            return None
    except Exception as error:  # cupti-python has an exception type for each way to fail
        return f"no kernel times: cupti-python does not work: {error}"


class KernelTimes:
    """Collects the kernels of this process that run inside the ``with`` block. The GPU must be idle at both
    ends.

    Attributes:
        durations_us: of the kernels in the order in which they started, after the block.
    """

    def __init__(self) -> None:
        self.durations_us: list[float] = []
        self._activity = _activity()

    def __enter__(self) -> KernelTimes:
        self._activity.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        spans = self._activity.stop()
        self.durations_us = [(end - start) / 1e3 for start, end in sorted(spans)]


class _Activity:
    """CUPTI's record of kernels, of which a process has one."""

    def __init__(self) -> None:
        from cupti import cupti

        self._cupti: Any = cupti
        self._kind = cupti.ActivityKind.CONCURRENT_KERNEL
        self._spans: list[tuple[int, int]] = []
        cupti.activity_register_callbacks(lambda: (_BUFFER_BYTES, 0), self._collect)

    def start(self) -> None:
        self._spans = []
        self._cupti.activity_enable(self._kind)

    def stop(self) -> list[tuple[int, int]]:
        self._cupti.activity_flush_all(_FLUSH_EVERYTHING)
        self._cupti.activity_disable(self._kind)
        return self._spans

    def _collect(self, activities: list[Any]) -> None:
        self._spans += [(record.start, record.end) for record in activities if record.kind == self._kind]


@cache
def _activity() -> _Activity:
    return _Activity()
