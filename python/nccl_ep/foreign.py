# SPDX-License-Identifier: Apache-2.0
"""Streams and communicators of other packages, as addresses."""

from __future__ import annotations

from typing import Any


def stream_address(stream: Any) -> int:
    """The ``cudaStream_t`` behind a stream.

    Args:
        stream: None (the default stream), an address, or a stream of PyTorch (``.cuda_stream``), CuPy
            (``.ptr``), cuda.core (``.handle``), the simulator, or anything with ``__cuda_stream__``.
    """
    if stream is None:
        return 0
    if isinstance(stream, int) and not isinstance(stream, bool):
        return stream
    if hasattr(stream, "__cuda_stream__"):
        return int(stream.__cuda_stream__()[1])
    for attribute in ("cuda_stream", "ptr", "handle"):
        if hasattr(stream, attribute):
            return int(getattr(stream, attribute))
    raise TypeError(
        f"{type(stream).__name__} is no stream: expected None, an address, or an object with "
        f"__cuda_stream__, cuda_stream, ptr or handle"
    )


def communicator_address(comm: Any) -> tuple[int, Any]:
    """The ``ncclComm_t`` behind a communicator, and the object that owns it.

    Args:
        comm: an ``nccl.core.Communicator``, a simulated rank or its communicator, or an address.
    """
    owner, comm = comm, getattr(comm, "comm", comm)
    for attribute in ("ptr", "value"):
        if hasattr(comm, attribute):
            return int(getattr(comm, attribute) or 0), owner
    if isinstance(comm, int) and not isinstance(comm, bool):
        return comm, owner
    raise TypeError(
        f"{type(comm).__name__} is no communicator: expected an nccl.core.Communicator, a simulated rank, "
        f"a PyTorch process group, or the address of an ncclComm_t"
    )


def communicator_made_for(comm: Any) -> Any:
    """A new communicator of a PyTorch process group's ranks, which the caller is to destroy.

    None if ``comm`` is anything else. Collective in the process group.
    """
    if not hasattr(comm, "_get_backend"):
        return None
    from nccl_ep.interop.torch import get_nccl_comm_from_group

    return get_nccl_comm_from_group(comm)


def number_of_ranks(comm: Any) -> int | None:
    """Of a communicator; None if it is an address alone.

    Args:
        comm: the owner that :func:`communicator_address` returns.
    """
    for of in (comm, getattr(comm, "comm", None)):
        for attribute in ("num_ranks", "nranks"):
            count = getattr(of, attribute, None)
            if isinstance(count, int):
                return count
    return None
