# SPDX-License-Identifier: Apache-2.0
"""What the runners share with litmus.cuh: the kernels' argument, and the verdict that they leave."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt
from programs import Outcome

WORDS = 65536  # of a rank's memory: kWords
_ARGS = struct.Struct("<QQQII")  # Args


def pack_args(base: int, stride: int, verdicts: int, rank: int, num_ranks: int) -> bytes:
    """The kernels' argument: where the ranks' memory is, where the verdicts go, and who this is."""
    return _ARGS.pack(base, stride, verdicts, rank, num_ranks)


def judge(verdicts: list[npt.NDArray[Any]]) -> tuple[Outcome, str]:
    """The outcome by the programs' own checks: ``[thread, (checks, line of the first failed one)]``."""
    everyone = np.concatenate(verdicts)
    if everyone[:, 0].sum() == 0:
        raise AssertionError("the program has checked nothing")
    failed = everyone[everyone[:, 1] != 0]
    if failed.size:
        return Outcome.WRONG, f"{len(failed)} threads failed, the first in line {failed[0, 1]}"
    return Outcome.CLEAN, ""
