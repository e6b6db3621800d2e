# SPDX-License-Identifier: Apache-2.0
"""Every deliberate bug in a kernel is noticed in every seed, and the kernels as they are pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from build import build
from mutants import MUTANTS, Mutant

pytestmark = pytest.mark.sim_only

SCENARIO = Path(__file__).with_name("scenario.py")
SEEDS = range(1, 6)
SECONDS = 300


def run_scenario(kernels: Path, scenario: str, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """How each seed ended. A crash or a hang counts as noticed."""
    command = [sys.executable, str(SCENARIO), str(kernels), scenario, *map(str, seeds)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return [{"seed": seed, "noticed": True, "report": "hangs"} for seed in seeds]
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0:
        return results
    if done.returncode > 0:
        pytest.fail(f"the scenario itself failed\n{done.stderr}")
    ended = {result["seed"] for result in results}
    return results + [{"seed": s, "noticed": True, "report": "crashes"} for s in seeds if s not in ended]


ALL_SCENARIOS = [
    "expert-major",
    "expert-major-many",
    "rank-major",
    "rank-major-many",
    "few-blocks",
    "idle-receiver",
]


@pytest.mark.parametrize("scenario", ALL_SCENARIOS)
def test_kernels_as_they_are_pass(scenario: str, tmp_path: Path) -> None:
    for result in run_scenario(build(tmp_path), scenario, SEEDS):
        assert not result["noticed"], f"seed {result['seed']}\n{result['report']}"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_mutant_is_noticed(mutant: Mutant, tmp_path: Path) -> None:
    kernels = build(tmp_path, mutant)
    missed = list(SEEDS)
    for scenario in mutant.scenarios:
        missed = [
            result["seed"] for result in run_scenario(kernels, scenario, missed) if not result["noticed"]
        ]
        if not missed:
            return
    pytest.fail(f"seeds {missed} did not notice it in {mutant.scenarios}. {mutant.why}")
