# SPDX-License-Identifier: Apache-2.0
"""The contract's page says all that the header does: nothing is lost on the way from comments to tables."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docs" / "hooks"))

import contract_page
import links

INCLUDE = Path(links.__file__).resolve().parents[2] / "include"
HEADERS = [INCLUDE / "nccl_ep.h", INCLUDE / "nccl_ep" / "ep_enums.h"]
TEXT, ENUMERATIONS = (path.read_text() for path in HEADERS)
PAGE = contract_page.page(TEXT, ENUMERATIONS)


def described(name: str) -> str:
    """What the page has under a name's heading."""
    found = re.search(rf"^### `{name}` .*?(?=^##|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, name
    return found[0]


def test_every_function_is_there_with_its_prototype() -> None:
    code = re.sub(r"//.*", "", TEXT)
    functions = dict(re.findall(r"^[\w ]+\*? ?\b(ncclEp\w+)(\([^;{]*\));$", code, re.MULTILINE))
    assert len(functions) >= 18 + 1
    for name, parameters in functions.items():
        assert f"{name}{parameters};" in described(name)
        assert f"| [`{name}`](#{name}) |" in PAGE


@pytest.mark.parametrize("text", [TEXT, ENUMERATIONS], ids=["nccl_ep.h", "ep_enums.h"])
def test_every_field_and_value_is_there(text: str) -> None:
    found = re.findall(r"typedef (struct|enum) \{(.*?)\} (\w+);", text, re.DOTALL)
    assert found
    for kind, body, name in found:
        section = described(name)
        code = re.sub(r"//.*", "", body)
        callbacks = re.findall(r"\(\*(\w+)\)\(", code)
        fields = callbacks + re.findall(r"(\w+)(?:\[\d+\])?;", re.sub(r".*\(\*.*", "", code))
        values = re.findall(r"(\w+) = \d+", code)
        names = (
            values
            if kind == "enum"
            else [f for f in fields if not re.fullmatch(r"size|magic|padding_v\d+", f)]
        )
        rows = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
        assert sorted(rows) == sorted(names), name


def test_every_word_of_a_comment_is_there() -> None:
    shown = set(re.findall(r"\w+", PAGE))
    sections = re.split(r"^// ---- (.+?) -+$", TEXT, flags=re.MULTILINE)
    by_title = dict(zip(sections[1::2], sections[2::2], strict=True))
    unexplained = {
        "Versions",
        "Tools for structs",
        "The binary interface, checked wherever this header is compiled",
    }
    assert unexplained < by_title.keys()
    for title in by_title.keys() - unexplained:
        section = re.sub(r"^(//.*\n)+(?=#)", "", by_title[title], flags=re.MULTILINE)  # about macros
        for comment in re.findall(r"// ?(.*)", section):
            assert set(re.findall(r"\w+", comment)) <= shown, comment


def test_what_a_macro_sets_is_what_a_field_has_initially() -> None:
    config = described("ncclEpGroupConfig_t")
    assert "| `version` | `unsigned int` | `NCCL_EP_API_VERSION` | 8 |" in config
    assert re.search(r"\| `algorithm` \| \[`\w+`\]\(#\w+\) \| `NCCL_EP_ALGO_LOW_LATENCY` \| 12 \|", config)
    assert "| `timeout_ns` | `uint64_t` | `0` | 88 | how long a kernel waits" in config


def test_links_of_a_page_are_moved_to_where_the_site_has_things() -> None:
    text = (
        "[a](../README.md#in-c) [b](../include/nccl_ep.h) [c](ll.md) [d](https://x.y)\n```\n[e](../f)\n```\n"
    )
    moved = links.moved(text, "docs/ht.md")
    assert moved == (
        "[a](overview.md#in-c) [b](source/include/nccl_ep.h.md) [c](ll.md) [d](https://x.y)\n```\n[e](../f)\n```\n"
    )
    assert links.moved("[a](docs/ll.md)", "README.md") == "[a](ll.md)"
    assert links.moved("[a](../ll.md)", "docs/decisions/001.md") == "[a](../ll.md)"
