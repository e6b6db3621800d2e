# SPDX-License-Identifier: Apache-2.0
"""ep_bench refuses cases that there is no memory for, before it allocates any."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from typing import Any

import pytest
from bench_cases import case
from nccl_ep.plan import LAYOUTS, MemoryKind, memory_plan

from ep_bench import memory
from ep_bench.arguments import group_config, handle_config
from ep_bench.cases import Case
from ep_bench.cli import main
from ep_bench.devices import driver
from ep_bench.exits import Exit, UsageError
from ep_bench.memory import check_memory
from ep_bench.options import parse, settle

COMMAND = ["--device=sim", "--ranks=2", "--tokens=64", "--experts=8", "--top-k=3", "--op=pair", "--mode=host"]
PEAK = """
import sys
from ep_bench.cli import main
assert main(sys.argv[1:]) == 0
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

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
    # Of 24 tokens with 3 routes each: rows received and to be combined, also one behind each of 8 experts'.
    filled = 24 + 2 * (24 * 3 + 8)
    update = least_that_fits(monkeypatch, LL, "sim", ("update",)) - 13 * windows_of(LL)
    assert update == (24 + 24 + 13 * filled) * 64
    dispatch = least_that_fits(monkeypatch, LL, "sim") - 13 * windows_of(LL)
    assert dispatch == (24 + 24 + 13 * filled + 12 * 24) * 64
    for op in ("combine", "pair", "step"):
        with_sums = least_that_fits(monkeypatch, LL, "sim", ("update", op)) - 13 * windows_of(LL)
        assert with_sums == dispatch + 24 * 32 * 2 * 8


def test_padding_is_filled_as_well(monkeypatch: Any) -> None:
    def rows(of: Case) -> int:
        without = 13 * windows_of(of) + (24 * 2 + 13 * 24 + 12 * 24) * 64
        return (least_that_fits(monkeypatch, of, "sim") - without) // (4 * 2 * 13 * 64)

    assert rows(HT) == 101  # and the one behind the budget
    aligned = case(algorithm="ht", layout="em", alignment=64)
    assert rows(aligned) == 2 * 64 + 1


def windows_of(of: Case) -> int:
    """Bytes of the library's windows, of all ranks."""
    config = group_config(of, max(of.budget, of.tokens))
    pieces = memory_plan(config, 4, LAYOUTS[of.layout], of.top_k, handle_config=handle_config(of))
    return 4 * sum(piece.num_bytes for piece in pieces if piece.kind is MemoryKind.WINDOW)


@pytest.mark.sim_only
@pytest.mark.parametrize(
    "options", [("--layout=em",), ("--algorithm=ht", "--layout=em", "--alignment=64")], ids=["ll", "ht"]
)
def test_what_is_counted_is_what_a_run_takes_at_least(monkeypatch: Any, options: tuple[str, ...]) -> None:
    few, many = 512, 4096

    def taken(hidden: int) -> int:
        command = [*COMMAND, *options, f"--hidden={hidden}"]
        run = subprocess.run(
            [sys.executable, "-c", PEAK, *command], capture_output=True, text=True, check=True
        )
        return 1024 * int(run.stdout.split()[-1])

    def counted(hidden: int) -> int:
        given = settle(parse([*COMMAND, *options, f"--hidden={hidden}"]), "sim", None)
        [of] = given.sweep.cases(2, 1)
        return least_that_fits(monkeypatch, of, "sim", given.ops)

    assert 0.6 < (counted(many) - counted(few)) / (taken(many) - taken(few)) < 1


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
    wanted = "--tokens 100000000 --hidden 512: 4 simulated ranks take at least .* at most the 3.0 GiB"
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
    "options", [("--tokens", "200000"), ("--hidden", "100000000"), ("--budget", "2000000000")], ids=str
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
