# SPDX-License-Identifier: Apache-2.0
"""PyTorch: communicators from process groups."""

from __future__ import annotations

from typing import Any


def get_nccl_comm_from_group(group: Any = None) -> Any:
    """A new ``nccl.core.Communicator`` of the ranks of a PyTorch process group. Collective in that group.

    A communicator of its own keeps the library out of the way of PyTorch's collectives. The current CUDA
    device must be the rank's. It is the caller's, who calls ``destroy()`` on it after closing the groups that
    use it. A group that is given the process group itself does both.

    Args:
        group: a ``torch.distributed`` process group; default: the world.

    Raises:
        ModuleNotFoundError: nccl4py is missing: ``pip install 'nccl-ep[cu13]'``.
    """
    import torch.distributed as dist

    try:
        import nccl.core
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            "nccl4py is missing: pip install 'nccl-ep[cu13]' or 'nccl-ep[cu12]'"
        ) from missing

    unique_id = [nccl.core.get_unique_id() if dist.get_rank(group) == 0 else None]
    dist.broadcast_object_list(unique_id, src=dist.get_global_rank(group or dist.group.WORLD, 0), group=group)
    return nccl.core.Communicator.init(dist.get_world_size(group), dist.get_rank(group), unique_id[0])
