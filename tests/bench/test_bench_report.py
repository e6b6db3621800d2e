# SPDX-License-Identifier: Apache-2.0
"""JSON, CSV, tables and pictures."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from bench_cases import LIBRARY, SETUP, case, row
from rich.console import Console

from ep_bench.exits import UsageError
from ep_bench.launch.watchdog import Watchdog
from ep_bench.report.columns import columns_for, constants_of
from ep_bench.report.files import check_targets, write_csv, write_json
from ep_bench.report.screen import Screen, describe, table_of
from ep_bench.rows import Measured, Routed, make_row
from ep_bench.statistics import Ratio

KEYS = [
    "device", "ranks", "lsa_team_size", "nodes", "algorithm", "layout", "op", "mode", "tokens", "hidden",
    "top_k", "experts", "dtype", "recipe", "zero_copy", "sms", "p50_us", "p99_us", "remote_bytes",
    "ideal_remote_bytes", "remote_gbps", "ceiling_gbps", "verified", "library", "library_version", "seed",
]  # fmt: skip

ROWS = [
    row(case(tokens=tokens, layout=layout), op, p50_us=10.0 + tokens)
    for layout in ("em", "rm")
    for tokens in (1, 128)
    for op in ("dispatch", "combine")
]
UNTIMED = [row(case(tokens=tokens), p50_us=None, p99_us=None, remote_bytes=1020.0) for tokens in (8, 128)]


def text_of(rows, **options) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table_of(rows, columns_for(rows, **options)))
    return capture.get()


def test_json_has_exactly_the_documented_keys_in_order(tmp_path):
    write_json(str(tmp_path / "rows.json"), ROWS, verbose=False)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == len(ROWS)
    assert all(list(found) == KEYS for found in rows)


def test_json_goes_to_standard_output_for_a_dash(capsys):
    write_json("-", ROWS[:1], verbose=False)
    [found] = json.loads(capsys.readouterr().out)
    assert found["op"] == "dispatch"
    assert found["remote_gbps"] == pytest.approx(1100 / 11.0 / 1e3)
    assert found["zero_copy"] is False


def test_times_are_null_where_there_are_none(capsys):
    write_json("-", UNTIMED, verbose=False)
    found = json.loads(capsys.readouterr().out)[0]
    assert [found[key] for key in ("p50_us", "p99_us", "remote_gbps")] == [None] * 3
    assert found["remote_bytes"] == 1020.0


def test_verbose_adds_routing_host_time_and_spread(tmp_path):
    compared = row(library="/other/libnccl_ep.so.0", host_call_us=1.5, ratio=Ratio(2.0, 1.9, 2.2))
    write_json(str(tmp_path / "rows.json"), [compared], verbose=True)
    [found] = json.loads((tmp_path / "rows.json").read_text())
    assert list(found) == [
        *KEYS,
        "routing",
        "mask",
        "host_call_us",
        "ratio_median",
        "ratio_low",
        "ratio_high",
    ]
    assert (found["host_call_us"], found["ratio_low"]) == (1.5, 1.9)


def test_csv_has_a_line_a_row(tmp_path):
    write_csv(str(tmp_path / "rows.csv"), ROWS, verbose=False)
    with open(tmp_path / "rows.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(ROWS)
    assert list(rows[0]) == KEYS
    assert rows[0]["p50_us"] == "11.0"


def test_csv_goes_to_standard_output_for_a_dash(capsys):
    write_csv("-", ROWS[:2], verbose=False)
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"--json": "nowhere/rows.json"}, "--json .*nowhere/rows.json: there is no folder .*nowhere"),
        ({"--csv": "."}, "--csv .*: is a folder, expected the name of a file"),
        ({"--plot": "file/rows.svg"}, "there is no folder .*file"),
        ({"--json": "locked/rows.json"}, "may not be written"),
        ({"--json": "rows", "--csv": "rows"}, "--csv .*rows: expected another file than that of --json"),
    ],
    ids=str,
)
def test_files_that_cannot_be_written_are_refused_by_option_and_name(tmp_path, monkeypatch, targets, message):
    (tmp_path / "file").touch()
    (tmp_path / "locked").mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "locked" not in str(path) and access(path, mode))
    with pytest.raises(UsageError, match=message):
        check_targets({option: f"{tmp_path}/{target}" for option, target in targets.items()})


def test_standard_output_is_taken_once_and_a_file_has_a_name():
    check_targets({"--json": "-", "--csv": None, "--plot": None})
    with pytest.raises(UsageError, match="--csv -: expected another file"):
        check_targets({"--json": "-", "--csv": "-"})
    with pytest.raises(UsageError, match="--json '': expected the name of a file"):
        check_targets({"--json": ""})


def test_looking_whether_a_file_can_be_written_leaves_none_behind(tmp_path):
    (tmp_path / "old.json").write_text("what was there")
    check_targets({"--json": str(tmp_path / "old.json"), "--csv": str(tmp_path / "new.csv")})
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
    assert (tmp_path / "old.json").read_text() == "what was there"


def test_high_throughput_has_keys_of_its_own(tmp_path):
    settings = {"pass_direction": "bwd", "budget": 64, "alignment": 16}
    high = row(case(algorithm="ht", **settings))
    write_json(str(tmp_path / "rows.json"), [high], verbose=False)
    [found] = json.loads((tmp_path / "rows.json").read_text())
    assert list(found) == [
        *KEYS,
        "pass_direction",
        "eager",
        "budget",
        "alignment",
        "overflow",
        "dropped_rows",
    ]
    assert settings.items() <= found.items()
    assert constants_of([high])["pass direction"] == "bwd"
    assert "pass direction" not in constants_of(ROWS)


def test_a_row_is_compared_with_the_ceiling_of_its_sms():
    setup = replace(SETUP, ceilings={0: 345.0, 8: 300.0})
    [line] = [line for line in describe(setup) if "8 SMs" in line]
    assert "300 GB/s" in line
    found = make_row(setup, case(sms=8), "dispatch", "graph", LIBRARY, Measured(True, 10.0), Routed(1.0, 2.0))
    assert found.ceiling_gbps == 300


def test_columns_are_what_varies_and_the_rest_is_said_once():
    names = [column.name for column in columns_for(ROWS)]
    assert names[:4] == ["layout", "tokens", "op", "mode"]
    assert "hidden" not in names
    assert "library" not in names
    assert constants_of(ROWS)["hidden"] == "32"
    assert "layout" not in constants_of(ROWS)


def test_the_table_shows_microseconds_bandwidth_and_the_share_of_the_ceiling():
    fast = row(p50_us=0.01)
    text = text_of([fast])
    assert "110" in text
    assert "32 %" in text  # of 345 GB/s
    assert "1.100" in text


def test_without_times_there_are_no_columns_for_them():
    text = text_of(UNTIMED)
    assert "µs" not in text
    assert "1.020" in text


def test_wrong_data_is_shown_as_such():
    assert "WRONG" in text_of([row(verified=False, p50_us=None, p99_us=None)])


def test_a_comparison_shows_both_libraries_and_the_ratio_with_its_spread():
    text = text_of([row(), row(library="/a/very/long/way/to/libnccl_ep.so.0", ratio=Ratio(1.95, 1.9, 2.01))])
    assert "1.95 (1.90 to 2.01)" in text
    assert "compared" in text


def test_what_it_ran_on_comes_first():
    text = "\n".join(describe(replace(SETUP, nodes=2)))
    for part in (
        "4 ranks on 2 hosts",
        "LSA teams of 4",
        "Some GPU",
        "NCCL 2.30.7",
        "345 GB/s",
        "note: a note",
    ):
        assert part in text


SWEEP = [row(case(sms=sms), p50_us=80.0 / sms) for sms in (4, 8, 16)]


@pytest.mark.parametrize(
    "rows",
    [ROWS, UNTIMED, SWEEP, [row(op="update", p50_us=None)]],
    ids=["timed", "untimed", "sms", "none"],
)
def test_pictures(rows, tmp_path):
    pytest.importorskip("matplotlib")
    from ep_bench.report.plot import page, write_plot

    write_plot(str(tmp_path / "rows.png"), rows, SETUP)
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
    write_plot(str(tmp_path / "rows.svg"), rows, SETUP)
    assert "<svg" in (tmp_path / "rows.svg").read_text()
    html = page(rows, SETUP)
    links = Links()
    links.feed(html)
    assert not links.outside
    assert "<svg" in html


def test_where_only_sms_vary_bandwidth_is_drawn_over_them():
    pytest.importorskip("matplotlib")
    from ep_bench.report.plot import draw

    rows = [replace(found, ceiling_gbps=20.0 + found.sms) for found in SWEEP]
    [axes] = draw(rows).axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("SMs", "GB/s, p50 of the slowest rank")
    measured, ceiling = axes.get_lines()
    assert measured.get_xdata().tolist() == ceiling.get_xdata().tolist() == [4, 8, 16]
    assert measured.get_ydata().tolist() == [found.remote_gbps for found in rows]
    assert ceiling.get_ydata().tolist() == [24, 28, 36]


class Links(HTMLParser):
    """What a page would have to load."""

    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []

    def handle_starttag(self, tag, attrs):
        names = ("src", "href", "xlink:href")
        self.outside += [value for name, value in attrs if name in names and not value.startswith("#")]


@pytest.mark.parametrize("algorithm", ["ll", "ht"])
def test_rows_say_whether_groups_had_masks(algorithm):
    rows = [row(case(algorithm=algorithm, mask=mask)) for mask in (False, True)]
    assert [found.as_dict(verbose=True)["mask"] for found in rows] == [False, True]
    assert columns_for(rows)[0].name == "mask"
    assert constants_of(rows[1:])["mask"] == "yes"


WIDE = [
    row(case(tokens=tokens, hidden=hidden), op, host_call_us=3.0)
    for tokens in (1, 4096)
    for hidden in (2048, 7168)
    for op in ("dispatch", "combine")
]


@pytest.mark.parametrize(
    ("width", "left_out"),
    [
        (130, None),
        (80, "host call µs, p99 µs, to ideal, remote bytes"),
        (30, "host call µs, p99 µs, to ideal, remote bytes, of ceiling, GB/s"),
    ],
)
def test_a_narrow_screen_shows_what_tells_rows_apart(capsys, width, left_out):
    Screen(Console(width=width), Watchdog(None)).show(WIDE, verbose=True)
    out = capsys.readouterr().out
    lines = [[cell.strip() for cell in line.split("│")[1:5]] for line in out.splitlines() if "graph" in line]
    assert lines == [[str(found.tokens), str(found.hidden), found.op, found.mode] for found in WIDE]
    assert "verified" in out
    said = [line for line in out.splitlines() if "left out" in line]
    assert said == ([f"left out for want of room: {left_out}; files have all"] if left_out else [])


def test_two_names_of_a_file_are_one(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path)
    for other in (f"{tmp_path}/./rows", f"{tmp_path}/link/rows"):
        with pytest.raises(UsageError, match=r"--csv .*rows: expected another file than that of --json"):
            check_targets({"--json": f"{tmp_path}/rows", "--csv": other})


@pytest.mark.parametrize("is_timed", [True, False])
def test_where_only_sms_vary_they_are_along_the_bottom(is_timed):
    pytest.importorskip("matplotlib")
    from ep_bench.report.plot import draw

    times = {} if is_timed else {"p50_us": None, "p99_us": None, "remote_bytes": 1020.0}
    [axes] = draw([replace(row(case(sms=sms)), **times) for sms in (1, 2, 4)]).axes
    assert axes.get_xlabel() == "SMs"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4"]
    assert axes.get_lines()[0].get_xdata().tolist() == [1, 2, 4]


@pytest.mark.filterwarnings("error")
def test_a_picture_of_nothing_says_so():
    pytest.importorskip("matplotlib")
    from ep_bench.report.plot import draw

    [axes] = draw([replace(row(op="update", p50_us=None), ideal_remote_bytes=0.0)]).axes
    assert axes.get_title() == "nothing to draw"
