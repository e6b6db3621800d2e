# SPDX-License-Identifier: Apache-2.0
"""``python -m nccl_ep.jit``: fills, shows and empties the cache; failures are one message and exit code 1."""

from __future__ import annotations

from pathlib import Path

import pytest
from nccl_ep import jit
from nccl_ep.errors import InvalidArgument, SystemFailure
from nccl_ep.jit.__main__ import main


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NCCL_EP_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("NCCL_EP_JIT_DUMP", raising=False)
    return tmp_path / "cache"


def test_warmup_fills_the_cache_once(
    cache: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        first = jit.warmup(["sm_90a"])
    except SystemFailure as failure:
        if "NVRTC" in failure.message:
            pytest.skip(f"no NVRTC here: {failure.message}")
        raise
    again = jit.warmup(["sm_90a"])
    assert not any(kernel.was_cached for kernel in first)
    assert all(kernel.was_cached for kernel in again)
    assert sorted(kernel.name for kernel in jit.kernels()) == sorted(kernel.name for kernel in first)
    assert {kernel.file for kernel in again} == set(cache.iterdir())

    monkeypatch.setenv("NCCL_EP_NCCL_INCLUDE_DIR", str(cache))  # where there are no headers
    assert main(["warmup", "--arch", "sm_90a"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(first)} kernels ready, 0 of them compiled" in shown
    assert "across LSA teams are left out: " in shown
    assert f"NCCL_EP_NCCL_INCLUDE_DIR: no nccl_device.h in {cache}" in shown
    assert main(["warmup", "--arch", "sm_90a", "--across-teams", "no"]) == 0
    shown = capsys.readouterr().out
    assert f"{len(first)} kernels ready, 0 of them compiled" in shown
    assert "left out" not in shown
    assert main(["warmup", "--arch", "sm_90a", "--across-teams", "yes"]) == 1
    assert f"no nccl_device.h in {cache}" in capsys.readouterr().out

    def stop(_: jit.Kernel) -> None:
        raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):  # what a visitor raises reaches the caller
        jit.warmup(["sm_90a"], stop)

    assert main(["clear"]) == 0
    assert f"removed {len(first)} kernels" in capsys.readouterr().out
    assert jit.kernels() == []


def test_an_empty_cache_is_listed_and_cleared() -> None:
    assert jit.kernels() == []
    assert jit.clear() == 0


def test_only_missing_headers_are_a_reason_to_leave_kernels_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def warmup(_archs: object, _visit: object, *, groups: jit.Groups) -> list[jit.Kernel]:
        if groups == jit.Groups.ONE_TEAM:
            return []
        raise SystemFailure(2, "kernel cache: cannot write x: No space left on device")

    monkeypatch.setattr(jit, "network_headers", lambda _: [])
    monkeypatch.setattr(jit, "warmup", warmup)
    assert main(["warmup", "--arch", "sm_90a"]) == 1
    shown = capsys.readouterr().out
    assert "No space left on device" in shown
    assert "left out" not in shown


@pytest.mark.parametrize(
    ("home", "reason"),
    [
        ("", "neither NCCL_EP_CACHE_DIR, XDG_CACHE_HOME nor HOME names a folder"),
        ("file", r"cannot create .*/file/\.cache: Not a directory"),
    ],
)
def test_warmup_says_why_it_keeps_nothing(
    home: str,
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in ("NCCL_EP_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / home) if home else "")
    with pytest.raises(SystemFailure, match=reason):
        jit.warmup(["sm_90a"])
    assert main(["warmup", "--arch", "sm_90a"]) == 1
    assert "ready" not in capsys.readouterr().out


def test_a_wrong_architecture_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InvalidArgument, match='"hopper", expected architectures such as sm_90a'):
        jit.warmup(["hopper"])
    assert main(["warmup", "--arch", "hopper"]) == 1
    assert "hopper" in capsys.readouterr().out


def test_a_cache_that_others_may_write_to_is_refused(cache: Path) -> None:
    cache.mkdir()
    cache.chmod(0o777)
    with pytest.raises(SystemFailure, match="other users may write"):
        jit.kernels()
