# SPDX-License-Identifier: Apache-2.0
"""Memory plans say what groups and handles really take."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import nccl_ep as ep
import pytest
from command_help import check_help
from nccl_ep import plan
from nccl_ep.model import pieces
from nccl_ep.plan import MemoryKind, main, memory_plan

EM, RM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR, ep.Layout.FLAT
DROP = ep.OverflowPolicy.DROP
LL = ep.GroupConfig(
    num_experts=12, max_dispatch_tokens_per_rank=40, max_token_bytes=208, num_topk=3, max_num_sms=3
)
HT = replace(LL, algorithm=ep.Algorithm.HIGH_THROUGHPUT)
WIDE = replace(HT, exact_combine=True, num_topk=6, max_token_bytes=1 << 30)
NUM_SMS = 4  # of a simulated GPU

CASES = {
    "ll-em": (LL, EM, 1),
    "ll-rm": (replace(LL, num_topk=0), RM, 1),
    "ht-flat-eager": (HT, FLAT, 1),
    "ht-flat-budget": (replace(HT, max_recv_tokens_per_rank=50), FLAT, 1),
    "ht-flat-drop": (replace(HT, max_recv_tokens_per_rank=50, overflow_policy=DROP), FLAT, 1),
    "ht-em-drop": (replace(HT, max_recv_tokens_per_rank=64, overflow_policy=DROP), EM, 16),
    "ht-em-aligned": (replace(HT, max_recv_tokens_per_rank=300, max_num_sms=0), EM, 16),
    "ht-exact": (replace(HT, exact_combine=True), EM, 1),
    "ll-mask": (replace(LL, enable_mask=True), EM, 1),
    "ht-mask": (replace(HT, enable_mask=True), EM, 1),
    "ht-many-tokens": (replace(HT, max_dispatch_tokens_per_rank=3000), EM, 1),
}

COMMAND = ["--tokens", "4096", "--ranks", "8", "--experts", "256", "--top-k", "8", "--hidden", "7168"]


@pytest.mark.sim_only
@pytest.mark.parametrize(("nodes", "num_ranks"), [(1, 1), (1, 4), (2, 4), (3, 6), (4, 4)])
@pytest.mark.parametrize("name", CASES)
def test_a_plan_is_what_is_allocated(make_cluster: Any, name: str, nodes: int, num_ranks: int) -> None:
    config, layout, alignment = CASES[name]
    handle_config = ep.HandleConfig(alignment)

    def allocated(rank: Any) -> tuple[int, int]:
        usage = cluster.sim.usage(rank.rank)
        return usage["device_bytes"], usage["host_bytes"]

    def main(rank: Any) -> Any:
        sizes = [allocated(rank)]
        with ep.Group(rank.comm, config) as group:
            sizes.append(allocated(rank))
            num_bytes = group.handle_mem_size(layout, 2, config=handle_config)
            with group.init_handle(layout, 2, config=handle_config):
                sizes.append(allocated(rank))
            rank.barrier()
        return sizes, num_bytes

    cluster = make_cluster(num_ranks, nodes=nodes)
    pieces = memory_plan(
        config,
        num_ranks,
        layout,
        2,
        team_size=num_ranks // nodes,
        handle_config=handle_config,
        num_sms=NUM_SMS,
    )
    for_others = [piece for piece in pieces if piece.name.startswith("other nodes")]
    assert {piece.of_handle for piece in for_others} == ({False, True} if nodes > 1 else set())

    def planned(*kinds: MemoryKind, of_handle: bool) -> int:
        return sum(p.num_bytes for p in pieces if p.kind in kinds and p.of_handle == of_handle)

    on_device = MemoryKind.WINDOW, MemoryKind.DEVICE
    for (before, with_group, with_handle), num_bytes in cluster.run(main):
        assert with_group[0] - before[0] == planned(*on_device, of_handle=False)
        assert with_handle[0] - with_group[0] == planned(*on_device, of_handle=True) == num_bytes
        assert with_handle[1] - before[1] == planned(MemoryKind.PINNED, of_handle=False)


def test_memory_follows_what_can_be_received() -> None:
    def rows(budget: int) -> int:
        config = replace(HT, max_recv_tokens_per_rank=budget, max_dispatch_tokens_per_rank=8, num_topk=1)
        pieces = {piece.name: piece.num_bytes for piece in memory_plan(config, 4, FLAT, 1)}
        return pieces["rows on their way"]

    # And 8 for this rank's tokens, which dispatch may quantize where no rows of others lie.
    assert [rows(budget) for budget in (8, 16, 32, 64, 0)] == [256 * n for n in (16, 24, 32, 32, 32)]


@pytest.mark.parametrize("config", [LL, HT], ids=["low-latency", "high-throughput"])
def test_exact_sums_take_memory_where_there_are_more_routes_than_ranks(config: ep.GroupConfig) -> None:
    def rows(num_topk: int, **changes: bool) -> int:
        shaped = replace(config, num_topk=num_topk, max_token_bytes=256, **changes)
        return sum(p.num_bytes for p in memory_plan(shaped, 4, EM, 2) if p.name == "rows on their way")

    assert rows(4, exact_combine=True) == rows(4)
    assert rows(8, exact_combine=True) == 2 * rows(8)


def test_memory_for_other_nodes_follows_their_number() -> None:
    def of_nodes(config: ep.GroupConfig, layout: ep.Layout, nodes: int) -> dict[str, int]:
        config = replace(config, num_experts=48, num_topk=2)
        pieces = memory_plan(config, 4 * nodes, layout, 2, team_size=4)
        return {piece.name: piece.num_bytes for piece in pieces}

    row, tokens = 256, 40  # 208 bytes, and what aligns a row
    for nodes in (1, 2, 4):
        ll, ht = of_nodes(LL, EM, nodes), of_nodes(HT, FLAT, nodes)
        # Low Latency, two banks: a box for each rank outside, and rows inside the team as ever.
        assert ll.get("other nodes: rows", 0) == 2 * 2 * 4 * (nodes - 1) * tokens * row
        assert ll["rows on their way"] == of_nodes(LL, EM, 1)["rows on their way"]
        # High Throughput: a parcel for each token and node, a row and 2 weights; home slots for all hosted.
        parcels = ht.get("other nodes: tokens and sums", 0)
        assert parcels == -(-tokens * (row + 16) // 128) * 128 * 2 * (nodes - 1)
        assert ht["rows on their way"] == 4 * nodes * tokens * row


@pytest.mark.parametrize(("num_topk", "rows"), [(1, 1), (5, 5), (9, 8)])
def test_exact_sums_take_a_parcel_row_for_each_route_to_a_team(num_topk: int, rows: int) -> None:
    config = replace(HT, num_experts=16, num_topk=num_topk, exact_combine=True)
    pieces = {piece.name: piece.num_bytes for piece in memory_plan(config, 4, EM, 1, team_size=2)}
    parcel = rows * 256 + -(-4 * num_topk // 16) * 16
    assert pieces["other nodes: tokens and sums"] == -(-40 * parcel // 128) * 128 * 2


def test_a_group_that_drops_has_room_for_the_rows_it_numbers() -> None:
    """Expert-major, rows keep the numbers that they would have with room for all."""

    def records(policy: ep.OverflowPolicy) -> int:
        config = replace(HT, max_recv_tokens_per_rank=48, overflow_policy=policy)
        pieces = {piece.name: piece.num_bytes for piece in memory_plan(config, 4, EM, 3)}
        return pieces["origins of rows"]

    trap, drop = records(ep.OverflowPolicy.TRAP), records(DROP)
    assert (trap, drop) == (48 * 8, 4 * 40 * 8)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (HT, {"num_ranks": 5}, "num_experts: is 12, expected a positive multiple"),
        (HT, {"num_ranks": 0}, "num_ranks: is 0, expected 1 to 1024"),
        (HT, {"team_size": 3}, r"team_size: is 3, expected a divisor of num_ranks \(4\)"),
        (LL, {"team_size": 0}, r"team_size: is 0, expected a divisor of num_ranks \(4\)"),
        (WIDE, {"team_size": 2, "layout": EM}, "max_token_bytes: is 1073741824, expected at most 7158"),
        (HT, {"num_sms": 0}, "num_sms: is 0"),
        (HT, {"num_sms": 2}, "max_num_sms: is 3, expected at most 2"),
        (HT, {"layout": RM}, "layout: is 2, expected"),
        (LL, {"layout": FLAT}, "layout: is 3, expected"),
        (HT, {"num_topk": 4}, "num_topk: is 4, expected 1 to 3"),
        (replace(HT, max_recv_tokens_per_rank=39), {}, "max_recv_tokens_per_rank: is 39"),
        (HT, {"layout": EM, "handle_config": ep.HandleConfig(3)}, "alignment"),
    ],
)
def test_what_a_group_would_refuse_is_refused(config: Any, options: Any, message: str) -> None:
    usual = {"num_ranks": 4, "layout": FLAT if config.algorithm else EM, "num_topk": 2}
    with pytest.raises(ep.Error, match=message):
        memory_plan(config, **(usual | options))


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], dtype: str) -> None:
    assert main([*COMMAND, "--dtype", dtype]) == 0
    out = capsys.readouterr().out
    assert "rows on their way" in out
    rows = 4096 * 8 * 7168 * (2 if dtype == "bf16" else 4)
    assert f"{rows:,}" in out
    assert f"{rows / 2**20:,.2f}" in out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--algorithm", "ll"], "operations finished"),
        (["--layout", "em", "--budget", "8000", "--alignment", "16"], "origins of rows"),
        (["--layout", "fl", "--eager"], "origins of rows"),
        (["--layout", "em", "--budget", "8000", "--overflow", "drop"], "origins of rows"),
    ],
)
def test_the_command_knows_both_algorithms(
    capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    assert main([*COMMAND, *options]) == 0
    assert text in capsys.readouterr().out


def test_the_command_plans_groups_with_masks(capsys: pytest.CaptureFixture[str]) -> None:
    for algorithm in ("ll", "ht"):
        command = [*COMMAND, "--algorithm", algorithm]
        assert main(command) == 0
        assert "masks" not in re.sub("meetings of masks", "", capsys.readouterr().out)
        assert main([*command, "--mask"]) == 0
        assert len(re.findall(r"device *. masks +.|pinned *. masks +.", capsys.readouterr().out)) == 2


def test_each_piece_is_called_what_it_is() -> None:
    """Low Latency has no memory to work in, which a group with masks does not change."""

    def names(config: ep.GroupConfig, kind: MemoryKind) -> list[str]:
        pieces = memory_plan(config, 4, EM, 2)
        return [piece.name for piece in pieces if piece.kind == kind and not piece.of_handle]

    progress, work, masks = "progress of the kernels", "working memory of the kernels", "masks"
    masked_ll, masked_ht = (replace(config, enable_mask=True) for config in (LL, HT))
    assert names(LL, MemoryKind.DEVICE) == [progress]
    assert names(masked_ll, MemoryKind.DEVICE) == [progress, masks]
    assert names(HT, MemoryKind.DEVICE) == [progress, work]
    assert names(masked_ht, MemoryKind.DEVICE) == [progress, work, masks]
    assert names(masked_ll, MemoryKind.PINNED) == ["what kernels report", masks]


def test_the_command_plans_groups_that_drop(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*options: str) -> str:
        assert main([*COMMAND, "--layout", "em", *options]) == 0
        return capsys.readouterr().out

    assert planned("--budget", "8000", "--overflow", "trap") == planned("--budget", "8000")
    all_rows = f"{8 * 4096 * 8:,}"  # an origin each
    assert all_rows in planned("--budget", "8000", "--overflow", "drop")
    assert all_rows not in planned("--budget", "8000")
    assert main([*COMMAND, "--overflow", "drop"]) == 1
    assert "without max_recv_tokens_per_rank" in " ".join(capsys.readouterr().out.split())


def test_the_command_plans_groups_with_exact_sums(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*options: str) -> str:
        assert main([*COMMAND, "--nodes", "2", *options]) == 0
        return capsys.readouterr().out

    parcels = f"{2 * (4096 * (8 * 7168 * 2 + 8 * 4)):,}"
    assert parcels in planned("--exact")
    assert parcels not in planned("--layout", "em")


def test_the_command_plans_groups_on_several_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    def planned(*options: str) -> str:
        assert main([*COMMAND[:2], *COMMAND[4:], *options]) == 0
        return capsys.readouterr().out

    for algorithm in ("ht", "ll"):
        usual = ("--algorithm", algorithm)
        two = planned(*usual, "--ranks", "16", "--nodes", "2")
        assert "of 16 on 2 nodes" in two
        assert "other nodes: " in two
        assert (
            two == planned(*usual, "--nodes", "2") == planned(*usual, "--nodes", "2", "--gpus-per-node", "8")
        )
        one = planned(*usual, "--ranks", "16")
        assert "of 16 on 1 node" in one
        assert "other nodes" not in one


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--budget", "7"]) == 1
    assert "max_recv_tokens_per_rank: is 7" in " ".join(capsys.readouterr().out.split())
    assert main([*COMMAND, "--alignment", "3"]) == 1
    with pytest.raises(SystemExit):
        main([*COMMAND, "--nodes", "3"])
    assert "--nodes 3: expected a divisor of the 8 ranks" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*COMMAND, "--nodes", "2", "--gpus-per-node", "4"])
    assert "not allowed with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*COMMAND, "--sms", "-1"])
    assert "'-1': expected a positive number" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*COMMAND, "--eager", "--budget", "8000"])
    assert "not allowed with" in capsys.readouterr().err


def test_top_k_was_once_written_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    def said(*command: str) -> str:
        assert main(list(command)) == 0
        return capsys.readouterr().out

    assert said(*COMMAND) == said(*(option.replace("--top-k", "--topk") for option in COMMAND))
    check_help(main, capsys)
    with pytest.raises(SystemExit):
        main(["--tokens", "4096", "--experts", "256", "--hidden", "7168"])
    assert "required: --top-k" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("module", "piece", "list_pieces"),
    [
        (plan, "MemoryPiece", lambda: memory_plan(LL, 4, EM, 3)),
        (pieces, "TrafficPiece", lambda: pieces.traffic_plan(LL, 4, 4, EM, 3)),
    ],
    ids=["memory", "traffic"],
)
def test_what_goes_wrong_with_a_piece_is_raised(
    monkeypatch: pytest.MonkeyPatch, module: Any, piece: str, list_pieces: Any
) -> None:
    def refuse(*_args: Any, **_kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, piece, refuse)
    with pytest.raises(KeyboardInterrupt):
        list_pieces()


@pytest.mark.parametrize(
    "command", [["plan", *COMMAND], ["model", "--tokens=8"], ["model", "--tokens=8", "--json"]], ids=" ".join
)
def test_a_command_whose_output_cannot_be_written_says_so(command: list[str]) -> None:
    module = f"nccl_ep.{command[0]}"
    with open("/dev/full", "w") as full:
        run = subprocess.run(
            [sys.executable, "-m", module, *command[1:]], stdout=full, stderr=subprocess.PIPE, text=True
        )
    message = f"{module}: standard output cannot be written: No space left on device\n"
    assert (run.returncode, run.stderr) == (1, message)


@pytest.mark.parametrize(
    "options", [["--budget", "8"], ["--eager"], ["--alignment", "1"], ["--overflow", "trap"]], ids=" ".join
)
def test_low_latency_has_no_options_of_high_throughput(
    capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    with pytest.raises(SystemExit):
        main([*COMMAND, "--algorithm", "ll", *options])
    assert f"{' '.join(options)}: expected --algorithm ht" in capsys.readouterr().err
