# SPDX-License-Identifier: Apache-2.0
"""What this host has of memory."""

from __future__ import annotations

import os


def host_memory() -> int:
    """Bytes, whether they are in use or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def in_gib(num_bytes: int) -> str:
    """For people."""
    return f"{num_bytes / 2**30:,.1f} GiB"
