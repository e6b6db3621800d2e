# SPDX-License-Identifier: Apache-2.0
"""Litmus programs: small kernels that pin down what each device primitive does and does not promise.

On the simulator they test its scheduler, memory and happens-before checker; on GPUs they test the PTX behind
the same primitives.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import CLEAN, NETWORK, PROGRAMS, Outcome, Program

HERE = Path(__file__).parent
SEEDS = 20

Run = Callable[[Program, int], tuple[Outcome, str]]


@pytest.fixture(scope="session")
def run_program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a program with a seed on the device under test."""
    if request.config.getoption("--device") == "cuda":
        import cuda_runner

        return cuda_runner.Runner(HERE / "all.cu", [HERE]).run
    import sim_runner

    target = tmp_path_factory.mktemp("litmus") / "litmus.so"
    sim_runner.load_kernels(sim_runner.compile_kernels(HERE / "all.cu", target, [HERE]))
    return sim_runner.run


@pytest.fixture(scope="session")
def run_on_network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The same for programs of the network, each rank an LSA team of its own."""
    folder = tmp_path_factory.mktemp("litmus_network")
    if request.config.getoption("--device") == "cuda":
        import cuda_network_runner

        with cuda_network_runner.NetworkRunner(HERE / "network.cu", [HERE], folder) as runner:
            yield runner.run
    else:
        import sim_runner

        sources = HERE.parents[1] / "src"
        kernels = sim_runner.compile_kernels(HERE / "network.cu", folder / "litmus.so", [HERE, sources])
        yield sim_runner.NetworkRunner(kernels).run


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.id)
def test_program_ends_as_it_must(program: Program, run_program: Run, request: pytest.FixtureRequest) -> None:
    check_program(program, run_program, request)


@pytest.mark.parametrize("program", NETWORK, ids=lambda program: program.id)
def test_network_program_ends_as_it_must(
    program: Program, run_on_network: Run, request: pytest.FixtureRequest
) -> None:
    check_program(program, run_on_network, request)


def check_program(program: Program, run_program: Run, request: pytest.FixtureRequest) -> None:
    on_gpu = request.config.getoption("--device") == "cuda"
    if on_gpu and (program.ends != CLEAN or program.options):
        pytest.skip("only the simulator can judge it")
    only = request.config.getoption("--seed")
    for seed in [only] if only is not None else range(1, 1 + SEEDS):
        outcome, report = run_program(program, seed)
        assert outcome in program.ends, f"seed {seed} ended with {outcome.value}\n{report}"
        if outcome is not Outcome.RACE:
            continue
        assert program.says in report, f"seed {seed}: the report does not say so\n{report}"
        if shutil.which("addr2line"):
            assert ".cuh:" in report, f"seed {seed}: the report names no source line\n{report}"
