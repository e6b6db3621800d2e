# SPDX-License-Identifier: Apache-2.0
"""What the runners share with litmus.cuh: the kernels' argument, and the verdict that they leave."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from programs import Outcome

WORDS = 65536  # of a rank's memory: kWords
GIN_CONTEXTS, GIN_SIGNALS, GIN_COUNTERS = 4, 16, 4  # network.cuh has the same
_ARGS = struct.Struct("<QQQIIQIIIII4xQ")  # Args


def pack_args(
    base: int, stride: int, verdicts: int, rank: int, num_ranks: int, network: int = 0, window: int = 0
) -> bytes:
    """The kernels' argument: where the ranks' memory is, where the verdicts go, and who this is."""
    gin_comm = (network, rank, num_ranks, GIN_CONTEXTS, GIN_SIGNALS, GIN_COUNTERS)
    return _ARGS.pack(base, stride, verdicts, rank, num_ranks, *gin_comm, window)


def judge(verdicts: list[npt.NDArray[Any]]) -> tuple[Outcome, str]:
    """The outcome by the programs' own checks: ``[thread, (checks, line of the first failed one)]``."""
    everyone = np.concatenate(verdicts)
    if everyone[:, 0].sum() == 0:
        raise AssertionError("the program has checked nothing")
    failed = everyone[everyone[:, 1] != 0]
    if failed.size:
        return Outcome.WRONG, f"{len(failed)} threads failed, the first in line {failed[0, 1]}"
    return Outcome.CLEAN, ""
