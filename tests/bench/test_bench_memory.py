# SPDX-License-Identifier: Apache-2.0
"""ep_bench refuses cases that there is no memory for, before it allocates any."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from bench_cases import case

from ep_bench import memory
from ep_bench.cases import Case
from ep_bench.cli import main
from ep_bench.devices import driver
from ep_bench.exits import Exit, UsageError
from ep_bench.memory import check_memory

# 4 ranks with 6 tokens each, of 64 bytes; 2 experts on a rank.
LL, HT = case(), case(algorithm="ht", layout="fl", budget=100)


def least_that_fits(monkeypatch: Any, of: Case, device: str, ops: tuple[str, ...] = ("dispatch",)) -> int:
    """Bytes of the host, or the GPU, below which the case is refused."""
    name = "host_memory" if device == "sim" else "least_memory"

    def fits(num_bytes: int) -> bool:
        monkeypatch.setattr(memory, name, lambda: num_bytes)
        try:
            check_memory(of, device, ops)
        except UsageError:
            return False
        return True

    low, high = 0, 1 << 40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def test_simulated_ranks_fill_rows_of_the_host(monkeypatch: Any) -> None:
    # Given, known to verification, arrived, to be combined, returned.
    assert least_that_fits(monkeypatch, LL, "sim") == 4 * 6 * 5 * 64
    assert least_that_fits(monkeypatch, HT, "sim") == 4 * (6 * 3 + 100 * 2) * 64
    sums = 4 * 6 * 32 * 2 * 8
    for op in ("combine", "pair", "step"):
        assert least_that_fits(monkeypatch, LL, "sim", ("update", op)) == 4 * 6 * 5 * 64 + sums


def test_a_rank_on_a_gpu_has_all_its_tensors_and_the_librarys_memory(monkeypatch: Any) -> None:
    small = least_that_fits(monkeypatch, LL, "cuda")
    tensors = (6 * 2 + 2 * 4 * 6 * 2) * 64
    assert tensors < small
    wide = case(hidden=8 * 32, recipe=LL.recipe)
    library = small - tensors
    assert least_that_fits(monkeypatch, wide, "cuda") > 8 * tensors + library
    more = case(algorithm="ht", layout="fl", budget=200)
    assert (
        least_that_fits(monkeypatch, more, "cuda") >= least_that_fits(monkeypatch, HT, "cuda") + 100 * 2 * 64
    )


def test_the_message_has_the_options_and_what_there_is(monkeypatch: Any) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 3 << 30)
    much = case(tokens=100_000_000, hidden=512)
    wanted = "--tokens 100000000 --hidden 512: rows of 4 simulated ranks take at least .* at most the 3.0 GiB"
    with pytest.raises(UsageError, match=wanted):
        check_memory(much, "sim", ("dispatch",))
    monkeypatch.setattr(memory, "least_memory", lambda: 141 << 30)
    wanted = r"a rank takes at least [\d.,]+ GiB, [\d.,]+ GiB of it for the library .*141.0 GiB of its GPU"
    with pytest.raises(UsageError, match=wanted):
        check_memory(much, "cuda", ("dispatch",))


def test_what_no_group_can_be_made_for_is_refused_at_once() -> None:
    with pytest.raises(UsageError, match=r"top-3 of 4000000, .*num_experts: is 4000000, expected at most"):
        check_memory(case(experts=4_000_000), "sim", ("dispatch",))


@pytest.mark.sim_only
@pytest.mark.parametrize(
    "options", [("--tokens", "100000000"), ("--hidden", "100000000"), ("--budget", "2000000000")], ids=str
)
def test_the_command_says_so_before_it_starts(
    monkeypatch: Any, capsys: Any, options: tuple[str, str]
) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 16 << 30)
    algorithm = "ht" if "--budget" in options else "ll"
    assert main(["--device", "sim", "--algorithm", algorithm, *options]) == Exit.USAGE
    out, err = capsys.readouterr()
    assert (out, " ".join(options) in err, "GiB of this host" in err) == ("", True, True)


def test_the_smallest_gpu_decides(monkeypatch: Any) -> None:
    sizes = [80 << 30, 40 << 30, 141 << 30]

    def call(name: str, out: Any, of: Any) -> None:
        if name == "cuDeviceGet":
            ctypes.cast(out, ctypes.POINTER(ctypes.c_int))[0] = of
        else:
            assert name == "cuDeviceTotalMem_v2"
            ctypes.cast(out, ctypes.POINTER(ctypes.c_size_t))[0] = sizes[of.value]

    monkeypatch.setattr(driver, "call", call)
    monkeypatch.setattr(driver, "num_gpus", lambda: len(sizes))
    assert driver.least_memory() == 40 << 30
