# SPDX-License-Identifier: Apache-2.0
"""What the C library's failures become in Python."""

from __future__ import annotations

import re
from typing import ClassVar


class Error(Exception):
    """A call into the library failed.

    Attributes:
        code: the ``ncclResult_t``.
        message: what the library said: the offending field, its value, and what was expected.
    """

    name: ClassVar[str] = "ncclResult_t"

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[Error], tuple[int, str]]:
        return type(self), (self.code, self.message)

    def __str__(self) -> str:
        return f"{self.message or 'no message'} ({self.name}, {self.code})"


class CudaError(Error):
    """A CUDA call failed."""

    name = "ncclUnhandledCudaError"


class SystemFailure(Error):
    """The system refused something: to load a library, to write a file, to give memory."""

    name = "ncclSystemError"


class InternalError(Error):
    """The library contradicts itself, or a kernel did not compile. Worth a bug report."""

    name = "ncclInternalError"


class InvalidArgument(Error):
    """A field or tensor has a value it may not have."""

    name = "ncclInvalidArgument"


class InvalidUsage(Error):
    """The call is not possible in this state, on this device or in this combination."""

    name = "ncclInvalidUsage"


class RemoteError(Error):
    """A kernel waited too long (``GroupConfig.timeout_ns``) for other ranks.

    The group is of no more use, unless :meth:`Group.clean_mask` raises it.

    Attributes:
        ranks: those that the message names as missing.
    """

    name = "ncclRemoteError"

    @property
    def ranks(self) -> tuple[int, ...]:
        found = re.search(r"from rank (\d+)|ranks ((?:\d+, )*\d+) have not", self.message)
        return tuple(int(rank) for rank in (found[1] or found[2]).split(", ")) if found else ()


class InProgress(Error):
    """The communicator is not ready yet."""

    name = "ncclInProgress"


class Timeout(Error):
    """NCCL took too long."""

    name = "ncclTimeout"


_BY_CODE: dict[int, type[Error]] = {
    1: CudaError,
    2: SystemFailure,
    3: InternalError,
    4: InvalidArgument,
    5: InvalidUsage,
    6: RemoteError,
    7: InProgress,
    8: Timeout,
}


def error_of(code: int, message: str) -> Error:
    """The exception for a result code."""
    return _BY_CODE.get(code, Error)(code, message)
