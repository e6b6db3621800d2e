# SPDX-License-Identifier: Apache-2.0
"""How ep_bench ends, and the exceptions that make it end that way."""

from __future__ import annotations

from enum import IntEnum

import nccl_ep

from ep_bench.expect import WrongData


class Exit(IntEnum):
    """Exit codes."""

    OK = 0
    USAGE = 2
    WRONG_DATA = 3
    HANG = 4
    CRASH = 5


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class UsageError(Exception):
    """The options, or the machine they were given on, make no sense."""


class PeerLost(Exception):
    """Another rank's process went away."""


def exit_for(error: BaseException) -> Exit:
    """The exit code for an exception that ended a rank."""
    if isinstance(error, (UsageError, nccl_ep.InvalidArgument, nccl_ep.InvalidUsage)):
        return Exit.USAGE
    if isinstance(error, WrongData):
        return Exit.WRONG_DATA
    if isinstance(error, (nccl_ep.Timeout, nccl_ep.RemoteError)):
        return Exit.HANG
    return Exit.CRASH


def message_of(error: BaseException) -> str | None:
    """All there is to say of an error that is not ep_bench's own; None: where it came from matters."""
    if isinstance(error, WrongData):
        return f"WRONG: {error}"
    known = (UsageError, nccl_ep.InvalidArgument, nccl_ep.InvalidUsage, nccl_ep.Timeout, nccl_ep.RemoteError)
    return str(error) if isinstance(error, known) else None
