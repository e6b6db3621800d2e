# SPDX-License-Identifier: Apache-2.0
"""The README's Python example runs, and says what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.py"


@pytest.mark.sim_only
def test_the_quickstart_brings_every_token_home() -> None:
    run = subprocess.run([sys.executable, QUICKSTART], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    errors = [float(number) for number in re.findall(r"\d+(?:\.\d+)?(?:e-?\d+)?(?=[\],)])", run.stdout)]
    assert len(errors) == 4
    assert max(errors) < 1e-5
