# SPDX-License-Identifier: Apache-2.0
"""Options and fixtures of all Python tests.

``--device sim`` (the default) runs test bodies on simulated GPUs, ``--device cuda`` on real ones. Every test
that takes ``seed`` runs with ``--seeds`` seeds; ``--seed S`` repeats a single one, which on the simulator is
the same run again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from clusters import open_cluster
from headers import nccl_includes, nccl_version

DEFAULT_SEEDS = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("nccl_ep")
    group.addoption("--device", choices=("sim", "cuda"), default="sim", help="simulated or real GPUs")
    group.addoption(
        "--seeds", type=int, default=DEFAULT_SEEDS, help="how many seeds each seeded test runs with"
    )
    group.addoption("--seed", type=int, default=None, help="the only seed to run, to repeat a failure")
    group.addoption(
        "--replays",
        type=int,
        default=10_000,
        help="on GPUs: how often the graph of a whole model is replayed",
    )
    group.addoption(
        "--nccl-include",
        action="append",
        default=[],
        help="headers of another NCCL version, besides the installed wheel's, to compile against",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sim_only: what the test needs exists on the simulator only")
    config.addinivalue_line(
        "markers", "xdist_group(name): run in one process, since they share what takes long"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--device") == "cuda":
        skip = pytest.mark.skip(reason="needs what only the simulator has")
        for item in items:
            if item.get_closest_marker("sim_only"):
                item.add_marker(skip)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("--seed")
        seeds = [only] if only is not None else range(1, 1 + metafunc.config.getoption("--seeds"))
        metafunc.parametrize("seed", seeds, ids=lambda seed: f"seed{seed}")
    if "nccl_include" in metafunc.fixturenames:
        folders: list[Any] = list(nccl_includes(metafunc.config.getoption("--nccl-include")))
        ids = [nccl_version(folder) for folder in folders] or None
        none = pytest.param(None, marks=pytest.mark.skip(reason="neither NCCL's wheel nor --nccl-include"))
        metafunc.parametrize("nccl_include", folders or [none], ids=ids)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report: Any = yield
    seed = item.callspec.params.get("seed") if hasattr(item, "callspec") else None
    if report.when == "call" and report.failed and seed is not None:
        device = item.config.getoption("--device")
        line = f"pytest '{item.nodeid}' --device {device} --seed {seed}"
        report.sections.append(("seed", f"seed {seed}; the same run again:\n{line}"))
    return report


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """``sim`` or ``cuda``."""
    return str(request.config.getoption("--device"))


@pytest.fixture
def make_cluster(device: str) -> Iterator[Callable[..., Any]]:
    """Makes clusters: ``make_cluster(num_ranks, seed=1, **simulator_options)``."""
    with ExitStack() as stack:

        def make(num_ranks: int, seed: int = 1, **options: Any) -> Any:
            if device == "cuda":
                from cuda_cluster import max_ranks

                if num_ranks > max_ranks():
                    pytest.skip(f"needs {num_ranks} GPUs, here are {max_ranks()}")
            return stack.enter_context(open_cluster(device, num_ranks, seed, **options))

        yield make
