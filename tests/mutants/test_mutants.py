# SPDX-License-Identifier: Apache-2.0
"""Every deliberate bug in a kernel is noticed in every seed, and the kernels as they are pass."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import exact_mutants
import ht_exact_teams_mutants
import ht_mask_mutants
import ht_mask_teams_mutants
import ht_mutants
import ht_remote_mutants
import ht_scale_mutants
import ll_mask_mutants
import ll_mask_teams_mutants
import ll_mutants
import ll_recipe_mutants
import pytest
import remote_mutants
from build import build
from mutant import Mutant
from scenario import SCENARIOS

pytestmark = pytest.mark.sim_only

SCENARIO = Path(__file__).with_name("scenario.py")
MUTANTS = {
    "ll": ll_mutants.MUTANTS,
    "masked": ll_mask_mutants.MUTANTS,
    "scaled": ll_recipe_mutants.MUTANTS,
    "remote": remote_mutants.MUTANTS,
    "ht": ht_mutants.MUTANTS,
    "rails": ht_remote_mutants.MUTANTS,
    "scales": ht_scale_mutants.MUTANTS,
    "masks": ht_mask_mutants.MUTANTS,
    "railmasks": ht_mask_teams_mutants.MUTANTS,
    "exact": exact_mutants.MUTANTS,
    "exactrails": ht_exact_teams_mutants.MUTANTS,
    "teams": ll_mask_teams_mutants.MUTANTS,
}
LEAST_SEEDS = 3  # --seeds N runs more
SECONDS = 60


def run_scenario(kernels: Path, algorithm: str, scenario: str, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """How each seed ended. A seed that crashes or hangs has noticed something; those after it start anew."""
    results: list[dict[str, Any]] = []
    left = list(seeds)
    while left:
        command = [sys.executable, str(SCENARIO), str(kernels), algorithm, scenario, *map(str, left)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            out, errors = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            out, errors = process.communicate()
        if process.returncode > 0:
            pytest.fail(f"the scenario itself failed\n{errors}")
        results += [json.loads(line) for line in out.splitlines() if line.startswith("{")]
        ended = {result["seed"] for result in results}
        left = [seed for seed in left if seed not in ended]
        if left:
            results.append({"seed": left.pop(0), "noticed": True, "report": "crashes or hangs"})
    return results


@pytest.fixture(scope="session")
def seeds(request: pytest.FixtureRequest) -> range:
    return range(1, 1 + max(LEAST_SEEDS, request.config.getoption("seeds")))


@pytest.fixture(scope="module")
def kernels_as_they_are(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    return cache(lambda algorithm: build(tmp_path_factory.mktemp(algorithm), algorithm))


@pytest.mark.parametrize(
    ("algorithm", "scenario"), [(algorithm, name) for algorithm, names in SCENARIOS.items() for name in names]
)
def test_kernels_as_they_are_pass(
    kernels_as_they_are: Callable[[str], Path], algorithm: str, scenario: str, seeds: range
) -> None:
    for result in run_scenario(kernels_as_they_are(algorithm), algorithm, scenario, seeds):
        assert not result["noticed"], f"seed {result['seed']}\n{result['report']}"


@pytest.mark.parametrize(
    ("algorithm", "mutant"),
    [
        pytest.param(algorithm, mutant, id=f"{algorithm}-{mutant.name.replace(' ', '-')}")
        for algorithm, mutants in MUTANTS.items()
        for mutant in mutants
    ],
)
def test_mutant_is_noticed(algorithm: str, mutant: Mutant, seeds: range, tmp_path: Path) -> None:
    kernels = build(tmp_path, algorithm, mutant)
    missed = list(seeds)
    for scenario in mutant.scenarios:
        results = run_scenario(kernels, algorithm, scenario, missed)
        missed = [result["seed"] for result in results if not result["noticed"]]
        if not missed:
            return
    pytest.fail(f"seeds {missed} did not notice it in {mutant.scenarios}. {mutant.why}")
