# SPDX-License-Identifier: Apache-2.0
"""``python -m nccl_ep.loopback`` runs a command with the variables that NCCL needs, or says why it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from nccl_ep import loopback, paths

SHOW = (
    "import os; print(*(f'{k}={v}' for k, v in os.environ.items() if k[:5] in ('NCCL_', 'CUDA_')), sep='\\n')"
)


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nccl_ep.loopback", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )


def test_the_command_runs_with_the_variables() -> None:
    options = ["--delay-us", "50", "--reorder", "--seed", "7"]
    result = run("--nodes", "2", "--ranks", "8", *options, "--", sys.executable, "-c", SHOW)
    assert result.returncode == 0, result.stderr
    shown = dict(line.split("=", 1) for line in result.stdout.splitlines())
    expected = {
        "NCCL_RMA_PLUGIN": str(paths.loopback_plugin()),
        "NCCL_LSA_TEAM_SIZE": "4",
        "NCCL_NVLS_ENABLE": "0",
        "NCCL_EP_LOOPBACK_DELAY_US": "50",
        "NCCL_EP_LOOPBACK_REORDER": "1",
        "NCCL_EP_LOOPBACK_SEED": "7",
    }
    assert expected.items() <= shown.items()


def test_what_would_keep_gin_away_is_replaced() -> None:
    command = [sys.executable, "-c", SHOW]
    forbidding = {"NCCL_GIN_ENABLE": "0", "NCCL_CROSS_NIC": "0", "CUDA_DEVICE_MAX_CONNECTIONS": "1"}
    result = run("--nodes", "2", "--ranks", "2", "--", *command, **forbidding, NCCL_DEBUG="INFO")
    shown = dict(line.split("=", 1) for line in result.stdout.splitlines())
    assert all(shown[name] != value for name, value in forbidding.items())
    assert shown["NCCL_DEBUG"] == "INFO"


def test_arguments_and_exit_code_are_the_commands() -> None:
    code = "import sys; sys.exit(5 if sys.argv[1:] == ['--nodes', 'a b', '--'] else 6)"
    result = run("--nodes", "1", "--ranks", "1", "--", sys.executable, "-c", code, "--nodes", "a b", "--")
    assert result.returncode == 5, result.stderr


def test_a_shell_can_take_what_is_printed() -> None:
    printed = run("--nodes", "4", "--ranks", "4", "--print")
    assert printed.returncode == 0, printed.stderr
    script = f"{printed.stdout}\nprintenv NCCL_RMA_PLUGIN NCCL_LSA_TEAM_SIZE"
    answer = subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True)
    assert answer.stdout.splitlines() == [str(paths.loopback_plugin()), "1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nodes", "3", "--ranks", "8", "--", "true"], "8 ranks on 3 nodes: expected the same number"),
        (["--nodes", "2", "--", "true"], "CUDA shows no GPU here; --ranks says"),
        (["--nodes", "2", "--ranks", "4"], "expected a command behind --, or --print"),
        (["--nodes", "0", "--", "true"], "'0': expected a positive number"),
        (["--nodes", "1", "--ranks", "1", "--", "/no/such/command"], "/no/such/command: No such file"),
    ],
)
def test_what_cannot_be_is_explained(arguments: list[str], message: str) -> None:
    result = run(*arguments, CUDA_VISIBLE_DEVICES="")
    assert result.returncode != 0
    assert message in result.stderr


def test_a_missing_plugin_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nccl_ep._paths.library_dir", lambda: tmp_path)
    with pytest.raises(FileNotFoundError, match=r"librma_loopback\.so is missing"):
        loopback.environment(2, 4)


@pytest.mark.parametrize("folder", ["x" * 250, "a,b"])
def test_a_path_that_nccl_would_ignore_is_refused(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / folder / "librma_loopback.so"
    monkeypatch.setattr(paths, "loopback_plugin", lambda: plugin)
    with pytest.raises(ValueError, match="at most 254 characters without a comma"):
        loopback.environment(2, 4)
