# SPDX-License-Identifier: Apache-2.0
"""``python -m ep_bench`` is ``ep_bench``."""

from __future__ import annotations

import sys

from ep_bench.cli import main

if __name__ == "__main__":
    sys.exit(main())
