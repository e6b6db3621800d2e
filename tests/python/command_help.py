# SPDX-License-Identifier: Apache-2.0
"""What the commands for plans and for the model say of themselves alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def check_help(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> None:
    """The help has today's spelling of an option alone, and the default of another."""
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "--top-k N" in text
    assert "--topk" not in text
    assert "low latency or high throughput; default ht" in text
