# SPDX-License-Identifier: Apache-2.0
"""Group: the ranks of one communicator, ready to exchange tokens."""

from __future__ import annotations

import warnings
import weakref
from functools import lru_cache
from math import prod
from types import TracebackType
from typing import TYPE_CHECKING, Any

from nccl_ep._checks import check_types, member, whole
from nccl_ep._closing import Closing
from nccl_ep._ffi import NULL, Library, address_of, constants, default_library, ffi
from nccl_ep.capabilities import Capabilities, CapabilityQuery
from nccl_ep.config import GroupConfig, HandleConfig
from nccl_ep.dtypes import DataType
from nccl_ep.enums import Layout
from nccl_ep.errors import Error, InvalidUsage
from nccl_ep.foreign import communicator_address, communicator_made_for, number_of_ranks, stream_address
from nccl_ep.tensor import Tensor

if TYPE_CHECKING:
    from nccl_ep.handle import Handle
    from nccl_ep.io import LayoutInfo


class Group(Closing):
    """The ranks of one communicator with the symmetric memory and the kernels that their handles share.

    Making and closing a group is collective: every rank of the communicator does it. Neither is allowed while
    a stream of the calling thread captures a graph. Leaving the ``with`` block closes the group, also with an
    exception on its way: it goes on when the other ranks close theirs, or have given up.

    Args:
        comm: an ``nccl.core.Communicator``, a simulated rank, or an ``ncclComm_t``'s address, all of which
            must outlive the group; or a PyTorch process group, of whose ranks the group makes a communicator
            of its own. :meth:`close` destroys that one, but leaves it to the end of the process with
            ``enable_mask``, since NCCL would wait for ranks that are lost.
        config: see :class:`GroupConfig`; equal on all ranks.
        stream: default stream of this group's handles; None is the device's default stream.
        library: which ``libnccl_ep.so.0``; default: the one in this package.

    Raises:
        InvalidArgument: a field of ``config`` has an impossible value, or ranks disagree about one.
        InvalidUsage: the device or communicator cannot do what ``config`` asks for.
        TypeError: ``comm``, ``config`` or ``stream`` is something else.

    Example:
        >>> def main(rank):
        ...     config = GroupConfig(num_experts=8, max_dispatch_tokens_per_rank=16, max_token_bytes=256)
        ...     with Group(rank, config) as group:
        ...         return group.handle_mem_size(Layout.EXPERT_MAJOR, num_topk=2) > 0
        >>> from nccl_ep.sim import Cluster
        >>> with Cluster(gpus_per_node=2) as cluster:
        ...     cluster.run(main)
        [True, True]
    """

    def __init__(
        self, comm: Any, config: GroupConfig, *, stream: Any = None, library: Library | None = None
    ) -> None:
        check_types(config=(config, GroupConfig))
        self._ptr = NULL
        self._has_told = False  # somebody knows what kernels have reported
        self.config = config
        self._stream, self._c_stream = stream, _c_stream(stream_address(stream))
        self.library = library or default_library()
        self._handles: weakref.WeakSet[Handle] = weakref.WeakSet()
        self._own_comm = communicator_made_for(comm)
        address, self.comm = communicator_address(comm if self._own_comm is None else self._own_comm)
        out = ffi.new("ncclEpGroup_t*")
        try:
            self.library.check(
                self.library.c.ncclEpCreateGroup(out, ffi.cast("ncclComm_t", address), config.c)
            )
        except Error:
            self._destroy_own_comm()  # a group that is refused is refused on all ranks
            raise
        self._ptr = out[0]

    @classmethod
    def create(cls, comm: Any, config: GroupConfig) -> Group:
        """The same as ``Group(comm, config)``."""
        return cls(comm, config)

    @property
    def stream(self) -> Any:
        """The default stream of this group's handles."""
        return self._stream

    @property
    def ptr(self) -> int:
        """The ``ncclEpGroup_t`` as an address; 0 once closed."""
        return address_of(self._ptr)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` has been called."""
        return not self._ptr

    def create_handle(
        self,
        layout: Layout | int,
        topk_idx: Any,
        *,
        layout_info: LayoutInfo | None = None,
        config: HandleConfig | None = None,
        stream: Any = None,
    ) -> Handle:
        """Makes a handle with its first routing; see :meth:`Handle.create`."""
        from nccl_ep.handle import Handle

        return Handle.create(self, layout, topk_idx, layout_info=layout_info, config=config, stream=stream)

    def init_handle(
        self,
        layout: Layout | int,
        num_topk: int,
        *,
        config: HandleConfig | None = None,
        handle_mem: Any = None,
    ) -> Handle:
        """Makes a handle without routing; see :meth:`Handle.init`."""
        from nccl_ep.handle import Handle

        return Handle.init(self, layout, num_topk, config=config, handle_mem=handle_mem)

    def handle_mem_size(
        self, layout: Layout | int, num_topk: int, *, config: HandleConfig | None = None
    ) -> int:
        """Bytes of device memory that a handle needs, for ``Handle.init(handle_mem=...)``."""
        check_types(config=(config, HandleConfig | None))
        c_layout, num_topk = member("layout", layout, Layout), whole("num_topk", num_topk)
        size = ffi.new("size_t*")
        self.check(
            self.library.c.ncclEpHandleMemSize(
                self._open_ptr(), c_layout, NULL if config is None else config.c, size, num_topk
            )
        )
        return int(size[0])

    def capabilities(self, layout: Layout | int, query: CapabilityQuery) -> Capabilities:
        """What a dispatch or combine of a handle with this layout would do with its rows, and why.

        The call decides by the same code. Not collective; waits for nothing.

        Raises:
            InvalidArgument: the query makes no sense. A call that would be refused is an answer.
            TypeError: ``layout`` or ``query`` is something else.

        Example:
            >>> from nccl_ep import Algorithm, Operation
            >>> def main(rank):
            ...     config = GroupConfig(Algorithm.HIGH_THROUGHPUT, 8, 16, max_token_bytes=256)
            ...     query = CapabilityQuery(Operation.DISPATCH, hidden=128, tokens_in_window=True)
            ...     with Group(rank, config) as group:
            ...         return group.capabilities(Layout.FLAT, query).outputs_tokens.path.name
            >>> from nccl_ep.sim import Cluster
            >>> with Cluster(gpus_per_node=2) as cluster:
            ...     cluster.run(main)
            ['DIRECT', 'DIRECT']
        """
        check_types(query=(query, CapabilityQuery))
        out = ffi.new("ncclEpCapabilities_t*")
        out.size, out.magic = ffi.sizeof("ncclEpCapabilities_t"), constants["NCCL_EP_MAGIC"]
        c_layout = member("layout", layout, Layout)
        self.check(self.library.c.ncclEpQueryCapabilities(self._open_ptr(), c_layout, query.c, out))
        return Capabilities.of(out)

    def query_mask(self, mask: Any, *, stream: Any = None) -> None:
        """Writes which ranks take part, in stream order.

        Args:
            mask: int32 ``[ranks]`` in device memory: 1 for a rank that takes part, 0 for one that is masked.
            stream: default: the group's.

        Raises:
            InvalidUsage: the group was made without ``enable_mask``.
            TypeError, ValueError: ``mask`` has another type, or too few elements.
        """
        tensor, num_ranks = Tensor.of(mask), number_of_ranks(self.comm)
        if tensor.datatype is not DataType.INT32:
            raise TypeError(f"mask has the type {tensor.datatype.name}, expected INT32")
        if num_ranks is not None and prod(tensor.sizes) < num_ranks:
            raise ValueError(
                f"mask has the shape {tensor.sizes}, expected an element for each of {num_ranks} ranks"
            )
        c_mask = ffi.cast("int*", tensor.ptr)
        self.check(self.library.c.ncclEpMaskQuery(self._open_ptr(), c_mask, self.c_stream(stream)))

    def update_mask(self, mask: list[int], *, stream: Any = None) -> None:
        """Sets which ranks take part, in stream order: 1 for each that does, 0 for each that is left out.

        Ranks beyond the end of the list take part. The calling rank's own element has no effect, so all may
        be given the same list. A rank that was masked, and may have made calls meanwhile, takes part again by
        :meth:`clean_mask` alone.

        Raises:
            ValueError: the list has more elements than there are ranks, or others than 0 and 1.
            InvalidUsage: the group was made without ``enable_mask``.
        """
        num_ranks = number_of_ranks(self.comm) or _MAX_RANKS
        if len(mask) > num_ranks or any(active not in (0, 1) for active in mask):
            raise ValueError(f"mask is {mask}, expected at most {num_ranks} elements, each 0 or 1")
        c_mask = ffi.new("int[]", [int(active) for active in mask] + [1] * (_MAX_RANKS - len(mask)))
        self.check(self.library.c.ncclEpMaskUpdate(self._open_ptr(), c_mask, self.c_stream(stream)))

    def clean_mask(self, *, stream: Any = None) -> None:
        """Lets all ranks take part again that call it within ``timeout_ns`` of each other, masked ones too.

        Waits for the device. The earlier calls of each of them must have run.

        Raises:
            RemoteError: ranks that have not come, and stay masked: ``error.ranks``. The others go on.
        """
        self.check(self.library.c.ncclEpMaskClean(self._open_ptr(), self.c_stream(stream)))

    def async_error(self) -> Error | None:
        """What a kernel of this group has reported; None if all is well. Only reads host memory.

        It is what the next call will raise or, with ``enable_mask``, a :class:`RemoteError` of the first rank
        that was lost since :meth:`clear_error`: calls go on to succeed. Its message says who has waited how
        long for what from whom, and ``ranks`` has the rank; :meth:`query_mask` tells of all of them.
        """
        failure = self._reported()
        self._has_told |= failure is not None
        return failure

    def clear_error(self) -> None:
        """Forgets that ranks were lost, which :meth:`async_error` returns."""
        self.check(self.library.c.ncclEpErrorClear(self._open_ptr()))

    def close(self) -> None:
        """Closes the group's handles and then the group, whose calls must all have run.

        So wait for the streams before, for those of :meth:`query_mask` and :meth:`update_mask` as well: they
        use memory that is freed here. Collective; not capturable. Closing twice is harmless.

        Raises:
            InvalidUsage: the group has a handle that was not made through this object. It stays open.
            Error: a kernel has reported a failure that no call has raised: results are not to be used. The
                group is closed all the same.
        """
        for handle in list(self._handles):
            handle.close()
        if self.closed:
            return
        failure = None if self._has_told else self._reported()
        self.library.check(self.library.c.ncclEpGroupDestroy(self._ptr))
        self._ptr = NULL  # not before: a group that refuses to be destroyed lives on
        if not self.config.enable_mask:
            self._destroy_own_comm()
        if failure and not self.config.enable_mask:  # a group with masks goes on without the lost
            raise failure

    destroy = close

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._has_told |= error is not None  # whose place no other one takes
        self.close()

    def check(self, result: int) -> None:
        """Raises the exception for a result code, with this group's message."""
        if result:
            self._has_told = True
            self.library.check(result, self._ptr)

    def c_stream(self, stream: Any) -> Any:
        """The C stream of a call: the given one, else the group's default."""
        return self._c_stream if stream is None else _c_stream(stream_address(stream))

    def _reported(self) -> Error | None:
        code = ffi.new("int*")
        self.check(self.library.c.ncclEpGetAsyncError(self._open_ptr(), code))
        return self.library.error(int(code[0]), self._ptr) if code[0] else None

    def _destroy_own_comm(self) -> None:
        comm, self._own_comm = self._own_comm, None
        if comm is not None:
            comm.destroy()

    def _open_ptr(self) -> Any:
        if not self._ptr:
            raise InvalidUsage(5, "the group is closed")
        return self._ptr

    def __del__(self) -> None:
        # Closing is collective, and the collector runs on each rank when it likes: say so and leave it, with
        # the communicator that it uses.
        if getattr(self, "_ptr", NULL) != NULL:
            warnings.warn(f"{self!r} was never closed", ResourceWarning, source=self, stacklevel=2)

    def __repr__(self) -> str:
        if self.closed:
            return "<nccl_ep.Group closed>"
        return f"<nccl_ep.Group {self.config.num_experts} experts at {self.ptr:#x}>"


_MAX_RANKS = 1024


@lru_cache
def _c_stream(address: int) -> Any:
    # A program has few streams, and finding one costs less than a cast.
    return ffi.cast("cudaStream_t", address)
