# SPDX-License-Identifier: Apache-2.0
"""The model of traffic and time: sums done by hand, and its command.

That bytes are those of the kernels is for tests/protocol/test_model_traffic.py to say.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nccl_ep as ep
import numpy as np
import pytest
from command_help import check_help
from nccl_ep.model import (
    Case,
    Links,
    Machine,
    Operation,
    Prediction,
    Tokens,
    TrafficPiece,
    links_of,
    predict,
    time_of,
    traffic_plan,
)
from nccl_ep.model import TrafficPath as Way
from nccl_ep.model.__main__ import main
from nccl_ep.model.times import Terms

LL, HT = ep.Algorithm.LOW_LATENCY, ep.Algorithm.HIGH_THROUGHPUT
EM, RM, FLAT = ep.Layout.EXPERT_MAJOR, ep.Layout.RANK_MAJOR, ep.Layout.FLAT
ROW_BYTES = 14336
COMMAND = ["--gpus-per-node", "4", "--tokens", "64", "--experts", "32", "--top-k", "4", "--hidden", "256"]

# Four ranks in two teams, two experts each. Rank 0's tokens: one to ranks 1, 2 (twice) and 3, one to rank 3;
# rank 3's: one that stays.
NOBODY = np.empty((0, 4), int)
ROUTES = [np.array([[2, 4, 5, 7], [6, -1, -1, -1]]), NOBODY, NOBODY, np.array([[6, 7, -1, -1]])]
TOKENS = Tokens.of_routes(ROUTES, 8, team_size=2)


def piece(way: Way, **changes: Any) -> TrafficPiece:
    """Of dispatch: 1 byte a token, 10 more for each expert, or rank, there."""
    return replace(
        TrafficPiece("rows", Operation.DISPATCH, way, False, 0, (0, 11, 21, 31, 41), 1, 0, 0), **changes
    )


def sent(one: TrafficPiece, tokens: Tokens = TOKENS) -> Links:
    return links_of([one], tokens)[one.operation]


def matrix(**cells: int) -> Any:
    """``matrix(b02=5)``: 5 from rank 0 to rank 2, else zeros."""
    values = np.zeros((4, 4))
    for name, value in cells.items():
        values[int(name[1]), int(name[2])] = value
    return values


def test_tokens_are_counted_by_their_experts_and_ranks() -> None:
    assert TOKENS.at_ranks[0].tolist() == [[2, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [0, 2, 0, 0, 0]]
    assert TOKENS.at_teams[0].tolist() == [[1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]
    assert TOKENS.at_teams[3].tolist() == [[1, 0, 0, 0, 0], [0, 1, 0, 0, 0]]
    twice = Tokens.of_routes([np.array([[1, 1, 0]]), np.array([[-1, -1, 2]])], 4, team_size=1)
    assert twice.at_ranks[:, :, 1:].tolist() == [[[0, 1, 0], [0, 0, 0]], [[0, 0, 0], [1, 0, 0]]]


def test_each_path_has_its_peers() -> None:
    assert sent(piece(Way.LSA)).nvlink_bytes.tolist() == matrix(b01=11).tolist()
    assert sent(piece(Way.NETWORK)).rail_bytes.tolist() == matrix(b02=21, b03=22).tolist()
    assert sent(piece(Way.RAIL)).rail_bytes.tolist() == matrix(b02=11 + 21).tolist()
    assert sent(piece(Way.RAIL_FOR_EACH)).rail_bytes.tolist() == matrix(b02=21 + 22).tolist()
    # Rank 2 passes on what rank 0 has for rank 3; what is for rank 2 itself is there.
    assert sent(piece(Way.LSA_FORWARDED)).nvlink_bytes.tolist() == matrix(b01=11, b23=22).tolist()


def test_what_goes_home_goes_the_other_way() -> None:
    assert (
        sent(piece(Way.LSA_FORWARDED, to_home=True)).nvlink_bytes.tolist() == matrix(b10=11, b32=22).tolist()
    )
    assert sent(piece(Way.RAIL, to_home=True)).rail_bytes.tolist() == matrix(b20=32).tolist()


def test_what_is_sent_to_each_peer_is_sent_to_each_peer() -> None:
    nothing = {"bytes_of_token": (0,) * 5, "bytes_per_peer": 5}
    pairs = matrix(b01=5, b10=5, b23=5, b32=5)
    assert sent(piece(Way.LSA, **nothing)).nvlink_bytes.tolist() == pairs.tolist()
    assert sent(piece(Way.LSA_FORWARDED, **nothing)).nvlink_bytes.tolist() == (2 * pairs).tolist()
    assert sent(piece(Way.RAIL, **nothing)).rail_bytes.tolist() == matrix(b02=5, b20=5, b13=5, b31=5).tolist()
    assert sent(piece(Way.NETWORK, **nothing)).rail_bytes.sum() == 5 * 8


def test_messages_and_their_sizes() -> None:
    rows = sent(piece(Way.NETWORK, tokens_per_message=1, messages_per_peer=1, alignment=16))
    assert rows.rail_bytes.tolist() == matrix(b02=32, b03=32).tolist()
    assert rows.rail_messages[0].tolist() == [0, 0, 2, 3]
    chunks = sent(piece(Way.RAIL, tokens_per_message=2))
    assert chunks.rail_messages.tolist() == matrix(b02=1).tolist()


def test_a_sample_says_what_is_expected_of_every_rank() -> None:
    tokens = Tokens.expected(ROUTES[0], 6, num_ranks=4, num_experts=8, team_size=2)
    assert tokens.num_ranks == 4
    for rank in range(4):  # each token of the sample stands for three
        assert (tokens.at_ranks[rank] == 3 * TOKENS.at_ranks[0]).all()
        assert (tokens.at_teams[rank] == 3 * TOKENS.at_teams[0]).all()


@pytest.mark.parametrize(("layout", "rows"), [(EM, 14848), (RM, 14848)])
def test_sizes_are_the_librarys(layout: ep.Layout, rows: int) -> None:
    """A row of 14,336 bytes takes 116 lines of 128 bytes."""
    config = ep.GroupConfig(num_experts=256, max_dispatch_tokens_per_rank=128, max_token_bytes=ROW_BYTES)
    pieces = traffic_plan(config, 4, 4, layout, 8)
    assert {p.bytes_of_token[1] for p in pieces if p.name == "rows"} == {rows}
    assert not any(p.path.is_network for p in pieces)
    across = traffic_plan(config, 4, 2, layout, 8)
    assert {p.bytes_of_token for p in across if p.name == "rows" and p.path is Way.NETWORK} == {
        (0,) + (ROW_BYTES,) * 8
    }


def test_a_token_crosses_a_rail_once_for_each_team() -> None:
    config = replace(
        ep.GroupConfig(num_experts=256, max_dispatch_tokens_per_rank=4096, max_token_bytes=ROW_BYTES),
        algorithm=HT, num_topk=8,
    )  # fmt: skip
    pieces = [p for p in traffic_plan(config, 16, 8, FLAT, 8) if p.path is Way.RAIL]
    (dispatch,) = [p for p in pieces if p.bytes_of_token[1] and p.operation is Operation.DISPATCH]
    (combine,) = [p for p in pieces if p.bytes_of_token[1] and p.operation is Operation.COMBINE]
    assert dispatch.bytes_of_token == (0,) + (ROW_BYTES + 32,) * 8
    assert combine.bytes_of_token == (0,) + (ROW_BYTES,) * 8
    assert combine.to_home
    assert not dispatch.to_home
    assert dispatch.tokens_per_message * dispatch.bytes_of_token[1] <= 128 * 1024


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({}, {"team_size": 3}, r"team_size: is 3, expected a divisor of num_ranks \(4\)"),
        ({}, {"team_size": 0}, "team_size: is 0"),
        ({}, {"num_ranks": 0}, "num_ranks: is 0, expected 1 to 1024"),
        ({"num_experts": 7}, {}, "num_experts: is 7, expected a positive multiple"),
        ({}, {"layout": FLAT}, "layout: is 3, expected"),
        ({}, {"num_topk": 9}, "num_topk: is 9"),
    ],
)
def test_what_a_group_would_refuse_is_refused(config: Any, options: Any, message: str) -> None:
    usual = ep.GroupConfig(num_experts=8, max_dispatch_tokens_per_rank=16, max_token_bytes=256, num_topk=4)
    with pytest.raises(ep.Error, match=message):
        traffic_plan(
            replace(usual, **config),
            **({"num_ranks": 4, "team_size": 2, "layout": EM, "num_topk": 2} | options),
        )


def test_time_is_the_longest_way_and_the_fixed_terms() -> None:
    machine = Machine(nvlink_gbps=100, rail_gbps=10, rail_latency_us=5, message_us=1)
    none = np.zeros((2, 2))
    to_other, both = np.array([[0.0, 1], [0, 0]]), np.array([[0.0, 1], [1, 0]])

    def time(nvlink: Any, rail: Any, messages: Any, terms: Terms) -> tuple[float, float, str]:
        found = time_of(Links(nvlink, rail, messages), terms, machine)
        return found.bound_us, found.estimate_us, found.limit

    assert time(1e6 * both, none, none, Terms(2)) == (10, 12, "NVLink")
    assert time(1e6 * both, none, none, Terms(2, nvlink_share=0.5)) == (10, 22, "NVLink")
    assert time(1e3 * both, none, none, Terms(2, 3)) == (0.01, 5, "latency")
    assert time(none, 1e6 * to_other, both, Terms(2)) == (100, 107, "rail")
    assert time(none, 1e6 * to_other, both, Terms(2, rail_trips=2)) == (100, 112, "rail")
    assert time(none, 1e3 * to_other, 20 * both, Terms(2)) == (0.1, 27, "messages")
    assert time(1e6 * both, 1e3 * to_other, none, Terms(2)) == (10, 12, "NVLink")


def test_more_nodes_send_more_over_their_rails() -> None:
    random = np.random.default_rng(1)
    case = Case(HT, FLAT, tokens=256, row_bytes=2048, num_experts=64, num_topk=8)

    def step(nodes: int) -> Prediction:
        routes = [random.random((256, 64)).argsort(axis=1)[:, :8] for _ in range(4 * nodes)]
        *operations, total = predict(case, Machine(), Tokens.of_routes(routes, 64, team_size=4))
        assert [row.operation for row in operations] == ["update", "dispatch", "combine"]
        assert total.rail_bytes == sum(row.rail_bytes for row in operations)
        assert total.estimate_us == pytest.approx(sum(row.estimate_us for row in operations))
        assert all(row.bound_us < row.estimate_us for row in operations)
        return total

    steps = [step(nodes) for nodes in (1, 2, 4)]
    assert [row.ranks for row in steps] == [4, 8, 16]
    assert steps[0].rail_bytes == steps[0].rail_messages == 0
    assert 0 < steps[1].rail_bytes < steps[2].rail_bytes
    # A token goes to at most all the other teams, once each way.
    assert steps[2].rail_bytes < 2 * 1.1 * 3 * 256 * 2048


# ---- The command line ----


@pytest.mark.parametrize(
    "options", [["--algorithm", "ll"], ["--algorithm", "ll", "--layout", "rm"], ["--layout", "em"]]
)
def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert main([*COMMAND, "--nodes", "1,2", *options]) == 0
    out = capsys.readouterr().out
    assert "combine" in out
    assert out.count("step") == 2


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*COMMAND, "--nodes", "2", "--rail-gbps", "25", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["machine"]["rail_gbps"] == 25
    assert report["case"]["algorithm"] == "HIGH_THROUGHPUT"
    assert [row["operation"] for row in report["predictions"]] == ["update", "dispatch", "combine", "step"]
    assert all(row["nodes"] == 2 and row["rail_bytes"] > 0 for row in report["predictions"])


def test_slower_links_take_longer(capsys: pytest.CaptureFixture[str]) -> None:
    def step(*options: str) -> float:
        assert main([*COMMAND, "--tokens", "2048", "--nodes", "2", "--json", *options]) == 0
        return float(json.loads(capsys.readouterr().out)["predictions"][-1]["estimate_us"])

    usual = step()
    assert step("--rail-gbps", "5") > 2 * usual
    assert step("--rail-latency-us", "58.35") == pytest.approx(usual + 4 * 50)
    assert step("--nvlink-gbps", "1") > 2 * usual
    assert step("--message-us", "1000") > 2 * usual


def test_a_routing_file_is_taken_as_it_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "routes.npz"
    np.savez(file, **{f"topk_idx_{rank}": ids for rank, ids in enumerate(ROUTES)})
    options = [
        "--gpus-per-node",
        "2",
        "--experts",
        "8",
        "--hidden",
        "256",
        "--algorithm",
        "ll",
        "--layout",
        "rm",
    ]
    assert main([*options, "--nodes", "2", "--routing", str(file), "--json"]) == 0
    dispatch, combine, _ = json.loads(capsys.readouterr().out)["predictions"]
    rows, records, routes = (
        3 * 512,
        2 * 16,
        4 * 16,
    )  # the two rows for rank 3, or one, take 16 bytes of records
    counts = 2 * 2 * 16  # two units for each of two ranks
    assert dispatch["rail_bytes"] == rows + records + routes + counts
    assert combine["rail_bytes"] == rows
    assert main([*options, "--nodes", "1", "--routing", str(file)]) == 1
    assert "has routes of 4 ranks, expected 2" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("ending", ["html", "png"])
def test_the_command_draws(tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / f"model.{ending}"
    assert main([*COMMAND, "--nodes", "1,2,4", "--plot", str(target)]) == 0
    if ending == "png":
        assert target.read_bytes().startswith(b"\x89PNG")
    else:
        page = target.read_text()
        assert "<svg" in page
        assert page.count("<td>step</td>") == 3


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    for options, message in (
        (["--nodes", "3"], "expected a multiple of the 12 ranks"),
        (["--top-k", "33"], "--top-k 33"),
        (["--layout", "rm"], "layout: is 2, expected"),
        (["--routing", "even"], "--routing even: expected uniform"),
        (["--routing", "none.npz"], "none.npz"),
        (["--routing", "hot:33"], "--routing hot:33: expected at most the number of experts, 32"),
        (["--plot", "/nowhere/model.svg"], "--plot /nowhere/model.svg: there is no folder /nowhere"),
    ):
        assert main([*COMMAND, *options]) == 1
        assert message in " ".join(capsys.readouterr().out.split())
    for options in (
        ["--nodes", "1,0"],
        ["--rail-gbps", "0"],
        ["--rail-latency-us", "-1"],
        ["--message-us", "nan"],
        ["--seed=-1"],
        ["--seed", "99999999999999999999"],
        ["--plot", "model.pdf"],
    ):
        with pytest.raises(SystemExit):
            main([*COMMAND, *options])
        assert "expected a" in capsys.readouterr().err


def test_what_is_no_archive_of_routes_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    empty = tmp_path / "routes.npz"
    empty.touch()
    assert main([*COMMAND, "--routing", str(empty)]) == 1
    assert "is no .npz file of arrays" in capsys.readouterr().out


def test_a_picture_that_could_not_be_written_leaves_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    target = tmp_path / "model.svg"
    target.symlink_to("/dev/full")
    assert main([*COMMAND, "--plot", str(target)]) == 1
    out = capsys.readouterr().out
    assert "step" in out
    assert f"--plot {target}: No space left on device" in out


def test_top_k_was_once_written_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    def said(option: str) -> str:
        assert main([*COMMAND[:6], option, "4", "--json"]) == 0
        return capsys.readouterr().out

    assert said("--top-k") == said("--topk")
    check_help(main, capsys)


@pytest.mark.parametrize("option", ["--tokens", "--top-k"])
def test_a_routing_file_decides_about_tokens_and_top_k(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, option: str
) -> None:
    file = tmp_path / "routes.npz"
    np.savez(file, topk_idx=np.zeros((4, 2, 1), np.int64))
    assert main(["--gpus-per-node=4", "--experts=8", "--routing", str(file), option, "3"]) == 1
    assert f"{option} and --routing {file} exclude each other" in capsys.readouterr().out
