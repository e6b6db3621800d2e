# SPDX-License-Identifier: Apache-2.0
"""ep_bench on the simulator, from the command line to its output."""

from __future__ import annotations

import json

import numpy as np
import pytest
from nccl_ep import sim

from ep_bench.cli import main
from ep_bench.exits import Exit

pytestmark = pytest.mark.sim_only

SMALL = [
    "--device",
    "sim",
    "--ranks",
    "2",
    "--tokens",
    "5",
    "--hidden",
    "64",
    "--experts",
    "8",
    "--top-k",
    "3",
]


def rows_of(capsys, *arguments: str) -> list[dict]:
    code = main([*SMALL, *arguments, "--json", "-"])
    out, err = capsys.readouterr()
    assert code == Exit.OK, err
    return json.loads(out)


def test_every_operation_is_verified_in_both_modes_and_layouts(capsys):
    rows = rows_of(capsys)
    assert {(row["layout"], row["op"], row["mode"]) for row in rows} == {
        (layout, op, mode)
        for layout in ("em", "rm")
        for op in ("update", "dispatch", "combine", "pair", "step")
        for mode in ("graph", "host")
    }
    assert all(row["verified"] and row["p50_us"] is None and row["device"] == "sim" for row in rows)
    assert all(row["ranks"] == row["lsa_team_size"] == 2 and row["nodes"] == 1 for row in rows)


def test_bytes_are_counted_on_the_links(capsys):
    rows = {row["op"]: row for row in rows_of(capsys, "--layout", "em", "--mode", "host")}
    assert rows["update"]["remote_bytes"] == 0
    for op in ("dispatch", "combine", "pair", "step"):
        assert rows[op]["remote_bytes"] > rows[op]["ideal_remote_bytes"] > 0
    both = rows["dispatch"]["ideal_remote_bytes"] + rows["combine"]["ideal_remote_bytes"]
    assert rows["pair"]["ideal_remote_bytes"] == both


@pytest.mark.parametrize(
    "option", [("--dtype", "fp16,fp32"), ("--routing", "zipf:1.5,hot:3"), ("--zero-copy",)]
)
def test_options_are_verified(capsys, option):
    rows = rows_of(capsys, *option, "--op", "pair", "--mode", "host")
    assert all(row["verified"] for row in rows)
    assert any(row["zero_copy"] for row in rows) == (option == ("--zero-copy",))


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--pass", "bwd", "--alignment", "1,16"),
        ("--eager", "--pass", "fwd,bwd"),
        ("--zero-copy", "on", "--pass", "fwd,bwd"),
        ("--budget", "40", "--routing", "zipf:1.5,hot:3"),
        ("--dtype", "fp16,fp32", "--sms", "1,2"),
    ],
    ids=["usual", "backward", "eager", "windows", "budget", "dtypes"],
)
def test_high_throughput_is_verified(capsys, options):
    rows = rows_of(capsys, "--algorithm", "ht", *options)
    assert {row["layout"] for row in rows} == {"fl", "em"}
    assert {row["op"] for row in rows} == {"update", "dispatch", "combine", "pair", "step"}
    assert {row["mode"] for row in rows} == ({"host"} if "--eager" in options else {"graph", "host"})
    assert all(row["verified"] for row in rows)
    assert all(row["remote_bytes"] > 0 for row in rows)


@pytest.mark.parametrize(
    "options", [("--pass", "fwd,bwd"), ("--alignment", "2", "--zero-copy", "on")], ids=str
)
def test_what_is_left_when_rows_are_dropped_is_verified(capsys, options):
    few = ("--budget", "6", "--overflow", "drop")
    rows = rows_of(capsys, "--algorithm", "ht", "--routing", "zipf:1.5", *few, *options)
    assert all(row["verified"] for row in rows)
    assert all(row["dropped_rows"] > 0 for row in rows)
    everything = rows_of(capsys, "--algorithm", "ht", "--routing", "zipf:1.5", *options)
    assert all(row["dropped_rows"] == 0 for row in everything)
    ideal = [
        [row["ideal_remote_bytes"] for row in some if row["op"] == "pair"] for some in (rows, everything)
    ]
    assert all(less < all_of_it for less, all_of_it in zip(*ideal, strict=True))


ACROSS_NODES = ("--ranks", "4", "--nodes", "2", "--experts", "16")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--algorithm", "ht"),
        ("--algorithm", "ht", "--pass", "bwd", "--alignment", "4", "--zero-copy", "on"),
        ("--algorithm", "ht", "--eager", "--dtype", "fp16"),
        ("--algorithm", "ht", "--budget", "6", "--overflow", "drop", "--routing", "zipf:1.5"),
    ],
    ids=["ll", "ht", "backward", "eager", "drop"],
)
def test_several_nodes_are_verified(capsys, options):
    rows = rows_of(capsys, *ACROSS_NODES, *options, "--op", "pair,step")
    assert {row["mode"] for row in rows} == ({"host"} if "--eager" in options else {"graph", "host"})
    assert all(row["verified"] for row in rows)
    assert all((row["nodes"], row["lsa_team_size"]) == (2, 2) for row in rows)
    assert all(row["remote_bytes"] > row["ideal_remote_bytes"] > 0 for row in rows)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_high_throughput_moves_little_but_what_must_cross(capsys, nodes):
    shape = ("--ranks", "4", "--nodes", str(nodes), "--tokens", "40", "--hidden", "1600", "--layout", "fl")
    rows = rows_of(capsys, *shape, "--algorithm", "ht", "--op", "dispatch,combine", "--mode", "host")
    assert all(1 <= row["remote_bytes"] / row["ideal_remote_bytes"] < 1.02 for row in rows), rows


@pytest.mark.parametrize(
    "options",
    [
        ("--recipe", "nvfp4"),
        ("--recipe", "mxfp8", "--layout", "rm", "--zero-copy", "on"),
        ("--recipe", "ds-fp8", "--mask"),
        ("--recipe", "fp8-combine"),
        ("--recipe", "nvfp4-combine", "--mask"),
        ("--recipe", "fwd:fp16/fp32", "--algorithm", "ht", "--pass", "bwd", "--zero-copy", "on"),
        ("--recipe", "ds-fp8", "--algorithm", "ht", "--alignment", "4"),
        ("--recipe", "fp8-combine", "--algorithm", "ht", "--mask"),
        ("--recipe", "fp8-combine", "--algorithm", "ht", "--ranks", "4", "--nodes", "2"),
    ],
    ids=" ".join,
)
def test_recipes_are_verified(capsys, options):
    shape = ("--hidden", "128", "--op", "step", "--mode", "graph", "--verbose")
    rows = rows_of(capsys, *shape, *options)
    assert all(row["verified"] and row["recipe"] == options[1] for row in rows)
    assert {row["mask"] for row in rows} == {"--mask" in options}


def test_rows_of_a_recipe_cross_links_with_their_scales_and_no_more(capsys):
    shape = (
        "--tokens",
        "40",
        "--hidden",
        "4096",
        "--layout",
        "em",
        "--op",
        "dispatch,combine",
        "--mode",
        "host",
    )
    for recipe in ("nvfp4", "ds-fp8", "fp8-combine"):
        rows = rows_of(capsys, *shape, "--recipe", recipe)
        assert all(1 <= row["remote_bytes"] / row["ideal_remote_bytes"] < 1.08 for row in rows), rows


def test_nvfp4_rows_of_combine_take_as_many_bytes_as_they_must(capsys):
    """A strip has four packs of scales with room for more."""
    shape = ("--tokens", "40", "--hidden", "6912", "--layout", "rm", "--op", "combine", "--mode", "host")
    (row,) = rows_of(capsys, *shape, "--recipe", "nvfp4-combine")
    assert 1 <= row["remote_bytes"] / row["ideal_remote_bytes"] < 1.08, row


def test_companions_are_not_counted(capsys):
    """In high throughput, dispatch and combine alone are each half of a pair."""
    arguments = ("--algorithm", "ht", "--layout", "fl", "--mode", "graph")
    rows = {row["op"]: row["remote_bytes"] for row in rows_of(capsys, *arguments)}
    assert rows["dispatch"] + rows["combine"] == rows["pair"]
    assert rows["update"] + rows["pair"] == rows["step"]


def test_what_the_library_refuses_is_said(capsys):
    assert main([*SMALL, "--algorithm", "ht", "--sms", "99"]) == Exit.USAGE
    err = capsys.readouterr().err
    assert "max_num_sms: is 99, expected at most 4" in err
    assert "Traceback" not in err


def test_a_routing_file_with_an_idle_rank_and_tokens_without_routes(capsys, tmp_path):
    path = tmp_path / "routes.npz"
    np.savez(path, topk_idx_0=np.zeros((0, 2), int), topk_idx_1=np.array([[0, 3], [-1, -1], [2, 1]]))
    arguments = [
        "--device",
        "sim",
        "--ranks",
        "2",
        "--hidden",
        "64",
        "--experts",
        "4",
        "--routing",
        str(path),
    ]
    for algorithm in ("ll", "ht"):
        assert main([*arguments, "--algorithm", algorithm, "--json", "-"]) == Exit.OK
        rows = json.loads(capsys.readouterr().out)
        assert {row["tokens"] for row in rows} == {3}


def test_the_screen_says_what_it_ran_on_and_files_are_written(capsys, tmp_path):
    csv, plot = tmp_path / "rows.csv", tmp_path / "rows.html"
    pytest.importorskip("matplotlib")
    code = main(
        [*SMALL, "--layout", "rm", "--op", "pair", "--csv", str(csv), "--plot", str(plot), "--seed", "7"]
    )
    out = capsys.readouterr().out
    assert code == Exit.OK
    assert "2 ranks, LSA teams of 2: simulated GPUs" in out
    assert "seed 7" in out
    assert "verified" in out
    assert csv.read_text().startswith("device,ranks,")
    assert "<svg" in plot.read_text()


def test_wrong_data_has_its_own_exit_code_and_no_numbers(capsys, monkeypatch):
    from ep_bench import verify

    monkeypatch.setattr(verify, "POISON_BYTE", 0)  # so that verification finds fault with untouched rows
    code = main([*SMALL, "--layout", "em", "--op", "dispatch", "--mode", "host", "--json", "-"])
    out, err = capsys.readouterr()
    assert code == Exit.WRONG_DATA
    assert "WRONG: nccl_ep" in err
    assert [row["verified"] for row in json.loads(out)] == [False]


def test_a_fault_has_its_own_exit_code(capsys, monkeypatch):
    create = sim.Cluster

    def silenced(*args, **options):
        cluster = create(*args, **options)
        cluster.silence(1)
        return cluster

    monkeypatch.setattr(sim, "Cluster", silenced)
    assert main([*SMALL, "--op", "dispatch"]) == Exit.HANG


@pytest.mark.parametrize(
    "arguments",
    [("--experts", "9"), ("--mode", "kernel"), ("--top-k", "9"), ("--budget", "7", "--algorithm", "ht")],
)
def test_what_makes_no_sense_has_its_own_exit_code_and_a_message(capsys, arguments):
    assert main([*SMALL, *arguments]) == Exit.USAGE
    assert f"ep_bench: {arguments[0]}" in capsys.readouterr().err


def test_the_same_seed_counts_the_same_bytes(capsys):
    first, again = (rows_of(capsys, "--op", "pair", "--seed", "3") for _ in range(2))
    assert first == again
