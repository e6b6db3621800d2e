# SPDX-License-Identifier: Apache-2.0
"""A simulated cluster of GPUs in this process, for running and testing without a GPU.

The kernels are the library's own, compiled for the CPU. Each run is checked for races, deadlocks and bad
accesses, and is repeatable from its seed. It says nothing about speed.
"""

from __future__ import annotations

from nccl_ep.sim.cluster import Cluster, Failure, Schedule, Stores
from nccl_ep.sim.rank import Communicator, Elastic, Rank, Window
from nccl_ep.sim.stream import Event, Graph, Stream

__all__ = [
    "Cluster",
    "Communicator",
    "Elastic",
    "Event",
    "Failure",
    "Graph",
    "Rank",
    "Schedule",
    "Stores",
    "Stream",
    "Window",
]
