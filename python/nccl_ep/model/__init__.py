# SPDX-License-Identifier: Apache-2.0
"""Bytes per link and time per step of any cluster, from the sizes that the kernels use. No GPU is needed.

``python -m nccl_ep.model --nodes 1,2,4,8 --gpus-per-node 8 --tokens 4096`` shows it as a table; docs/model.md
says what is exact and what is an estimate. In programs: :func:`traffic_plan` for what is sent,
:meth:`Tokens.of_routes` or :meth:`Tokens.expected` for where tokens go, :func:`links_of` for what follows on
each link, :func:`time_of` for the time that takes, or :func:`predict` for all of it.
"""

from __future__ import annotations

from nccl_ep.enums import Operation
from nccl_ep.model.links import Links, links_of
from nccl_ep.model.pieces import TrafficPath, TrafficPiece, traffic_plan
from nccl_ep.model.prediction import Case, Prediction, predict
from nccl_ep.model.times import Machine, Time, time_of
from nccl_ep.model.tokens import Tokens

__all__ = [
    "Case",
    "Links",
    "Machine",
    "Operation",
    "Prediction",
    "Time",
    "Tokens",
    "TrafficPath",
    "TrafficPiece",
    "links_of",
    "predict",
    "time_of",
    "traffic_plan",
]
