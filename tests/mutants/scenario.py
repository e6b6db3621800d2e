# SPDX-License-Identifier: Apache-2.0
"""Runs a scenario with the kernels of a library, and tells how each seed ended.

``python scenario.py KERNELS.so ALGORITHM SCENARIO SEED ...`` prints a line of JSON a seed: seed, noticed,
report.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / folder) for folder in ("", "protocol", "litmus")]

import exact_scenarios  # noqa: E402
import ht_exact_teams_scenarios  # noqa: E402
import ht_mask_scenarios  # noqa: E402
import ht_mask_teams_scenarios  # noqa: E402
import ht_remote_scenarios  # noqa: E402
import ht_scale_scenarios  # noqa: E402
import ht_scenarios  # noqa: E402
import ll_mask_scenarios  # noqa: E402
import ll_mask_teams_scenarios  # noqa: E402
import ll_recipe_scenarios  # noqa: E402
import ll_scenarios  # noqa: E402
import remote_scenarios  # noqa: E402
from sim_runner import load_kernels  # noqa: E402

SCENARIOS = {
    "ll": ll_scenarios.SCENARIOS,
    "masked": ll_mask_scenarios.SCENARIOS,
    "scaled": ll_recipe_scenarios.SCENARIOS,
    "remote": remote_scenarios.SCENARIOS,
    "ht": ht_scenarios.SCENARIOS,
    "rails": ht_remote_scenarios.SCENARIOS,
    "scales": ht_scale_scenarios.SCENARIOS,
    "masks": ht_mask_scenarios.SCENARIOS,
    "railmasks": ht_mask_teams_scenarios.SCENARIOS,
    "exact": exact_scenarios.SCENARIOS,
    "exactrails": ht_exact_teams_scenarios.SCENARIOS,
    "teams": ll_mask_teams_scenarios.SCENARIOS,
}


def main(kernels: str, algorithm: str, scenario: str, *seeds: str) -> None:
    """Runs the scenario with each seed."""
    load_kernels(Path(kernels))
    for seed in seeds:
        noticed, report = False, ""
        try:
            SCENARIOS[algorithm][scenario](int(seed))
        except Exception as error:
            noticed = True
            report = "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        print(json.dumps({"seed": int(seed), "noticed": noticed, "report": report}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
