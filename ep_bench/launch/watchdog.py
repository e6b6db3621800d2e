# SPDX-License-Identifier: Apache-2.0
"""Ends a process that makes no progress, so that a hang is an answer and not a lost afternoon."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable

from ep_bench.exits import Exit


class Watchdog:
    """Ends the process with ``Exit.HANG`` once nobody has fed it for a while.

    Args:
        seconds: how long that is; None: it sleeps.

    Attributes:
        last_words: what is done before the end, in a thread of its own.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._fed = time.monotonic()
        self._activity = "starting"
        self.last_words: Callable[[], None] = lambda: None
        if seconds is not None:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def feed(self, activity: str | None = None) -> None:
        """Says that there is progress, and what is being done from here on."""
        self._fed = time.monotonic()
        self._activity = activity or self._activity

    def _watch(self) -> None:
        assert self._seconds is not None
        while True:
            left = self._fed + self._seconds - time.monotonic()
            if left <= 0:
                print(f"\nep_bench: no progress for {self._seconds:g} s: {self._activity}", file=sys.stderr)
                try:
                    self.last_words()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(Exit.HANG)
            time.sleep(left)
