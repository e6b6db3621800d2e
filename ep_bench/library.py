# SPDX-License-Identifier: Apache-2.0
"""Library: what is measured, or measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nccl_ep

from ep_bench.cases import Case
from ep_bench.inputs import inputs_of

_MAX_TOKENS, _MAX_SMS = 8192, 16  # of NVIDIA's high throughput, which does not refuse more


@dataclass(frozen=True)
class Library:
    """A library with a communicator of its own.

    Attributes:
        name, version: for tables.
        ordered: whether it promises the order of received rows.
    """

    name: str
    version: str
    code: nccl_ep.Library
    communicator: Any
    ordered: bool

    def why_not(self, case: Case) -> str | None:
        """Why this library must not be asked for a case, or None."""
        if self._is_ours():
            return None
        if case.recipe.has_global_scales:
            return "NCCL EP sends every expert's row as NVFP4, and how far that is off is not checked here"
        if case.recipe.quantizes_combine or case.recipe.exact:
            return f"NCCL EP has no recipe {case.recipe}"
        if case.algorithm != "ht":
            return None
        if case.tokens > _MAX_TOKENS:
            return f"{case.tokens} tokens, expected at most {_MAX_TOKENS} in high throughput"
        if case.sms > _MAX_SMS:
            return f"{case.sms} SMs, expected at most {_MAX_SMS} in high throughput"
        if inputs_of(case).zones.num_dropped:
            return "there is no room for all rows, and nobody says which ones it drops"
        return None

    def _is_ours(self) -> bool:
        """Whether it is some build of this project: those have an addition to the C API."""
        return hasattr(self.code.c, "ncclEpGetLastError")
