# SPDX-License-Identifier: Apache-2.0
"""What the documentation says is so: links, commands, examples, tables of numbers and names."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_EXAMPLE = re.compile(r"<!-- (examples/\S+) -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[str]:
    """The page's code in this language."""
    for found in _FENCE.finditer(page.read_text()):
        if found[1] == language:
            yield found[2]


def anchors(page: Path) -> set[str]:
    """The anchors that headings make, as code hosts do it."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    prose = _FENCE.sub("", page.read_text())
    for link in _LINK.findall(prose):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page_id(page)} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page_id(page)} links to {link}"


def test_every_page_is_in_the_reading_order() -> None:
    order = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").rglob("*.md"):
        name = str(page.relative_to(ROOT / "docs"))
        assert name == "README.md" or f"({name})" in order, name


@pytest.mark.parametrize("algorithm", ["ll", "ht"])
def test_a_page_says_what_each_kernel_file_is_for(algorithm: str) -> None:
    page = (ROOT / "docs" / f"{algorithm}.md").read_text()
    missing = [
        file.name for file in (ROOT / "jit_templates" / algorithm).iterdir() if f"`{file.name}`" not in page
    ]
    assert not missing


def test_the_readme_shows_the_examples_as_they_are() -> None:
    shown = dict(_EXAMPLE.findall(README.read_text()))
    assert set(shown) == {"examples/quickstart.py", "examples/ll_roundtrip.c"}
    for name, text in shown.items():
        licence, code = (ROOT / name).read_text().split("\n", 1)
        assert "SPDX-License-Identifier" in licence
        assert text == code, f"README.md shows another {name}: copy it, without its first line"


@pytest.mark.parametrize("command", ["pip install . && ep_bench", "pip install '.[test]' && pytest"])
def test_ci_runs_the_commands_of_the_quick_start(command: str) -> None:
    assert f"{command}\n" in list(blocks(README, "sh"))
    assert f"{{ {command}; }}" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.sim_only
@pytest.mark.parametrize("page", [p for p in PAGES if p != README and any(blocks(p, "python"))], ids=page_id)
def test_python_on_the_page_runs(page: Path) -> None:
    for code in blocks(page, "python"):
        exec(compile(code, page_id(page), "exec"), {"__name__": "__main__"})


def test_every_environment_variable_is_documented() -> None:
    sources = [path for ending in ("*.cpp", "*.hpp") for path in (ROOT / "src").rglob(ending)]
    used = {
        name for path in sources for name in re.findall(r'(?:getenv|variable)\("(\w+)"\)', path.read_text())
    }
    launchers = (ROOT / "ep_bench/launch/environment.py").read_text()
    used |= set(re.findall(r'"([A-Z][A-Z_]{3,})"', launchers)) - {"SIZE"}
    documented = set(re.findall(r"`([A-Z][A-Z_]+)`", (ROOT / "docs/environment.md").read_text()))
    assert {"NCCL_EP_CACHE_DIR", "NCCL_EP_SIM_SEED", "EP_BENCH_MEETING"} <= used
    assert used <= documented
    assert {name for name in documented if name.startswith(("NCCL_EP_", "EP_BENCH_"))} <= used


def test_every_choice_of_tuning_is_documented() -> None:
    plans = [(ROOT / "src/plan" / name).read_text() for name in ("ll_plan.cpp", "ht_plan.cpp")]
    names = [re.findall(r'\{"(\w+)", &tuning\.', plan) for plan in plans]
    table = (ROOT / "docs" / "environment.md").read_text()
    assert all(names)
    assert re.findall(r"^\| `([a-z_]+)` \|", table, re.MULTILINE) == [*names[0], *names[1]]


def test_every_kernel_is_on_the_page_about_them() -> None:
    """As they are recorded, which is compared with the code where they are compiled."""
    section = (ROOT / "docs/jit.md").read_text().partition("## Variants\n")[2].partition("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    stems = [name for row in rows for pattern in re.findall(r"`(\S+)`", row) for name in spelled_out(pattern)]
    suffixes = ("", "_masked", "_remote", "_masked_remote")
    assert all(f"`{suffix}`" in section for suffix in ("_masked", "_remote"))
    named = [stem + suffix for stem in stems for suffix in suffixes]
    named += ["clean", "ll_clean_remote", "ht_clean_remote"]
    recorded = json.loads((ROOT / "tests/kernels/resources.json").read_text())["kernels"]["sm_90a"]
    assert sorted(named) == sorted(recorded)


def spelled_out(pattern: str) -> list[str]:
    """``a_{b,c}[_d]`` is a_b, a_b_d, a_c and a_c_d."""
    choice = re.search(r"\{([^}]*)\}|\[([^]]*)\]", pattern)
    if choice is None:
        return [pattern]
    choices = choice[1].split(",") if choice[1] else ["", choice[2]]
    begin, end = pattern[: choice.start()], pattern[choice.end() :]
    return [name for one in choices for name in spelled_out(begin + one + end)]


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_example_of_the_window_layout_is_right(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "ll.md").read_text()
    asked = re.search(
        r"<!-- layout: ranks (\d+), tokens (\d+), local experts (\d+), hits (\d+), row bytes (\d+) -->", text
    )
    assert asked
    table = re.findall(r"^\| ([a-z]+(?: [a-z]+| \d)?)(?:, .*?)? \| (\d+) \| (\d*) ?\|$", text, re.MULTILINE)
    starts = {name: int(start) for name, start, _ in table}
    sizes = {name: int(size) for name, _, size in table if size}
    program = tmp_path / "layout.cpp"
    program.write_text(
        '#include <cstdio>\n#include "shared/ll_layout.hpp"\n'
        f"int main() {{ const auto x = nccl_ep::LlLayout::make({', '.join(asked.groups())});\n"
        "const auto show = [](const char* name, uint64_t value) {\n"
        'std::printf("%s=%llu\\n", name, (unsigned long long)value); };\n'
        'show("hello", x.hello_at(0)); show("life", x.life_at(0));\n'
        'show("bank 0", x.bank_at(0)); show("counts", 0);\n'
        'show("routes", x.routes); show("rows", x.rows);\n'
        'show("bank 1", x.bank_at(1)); show("meeting", x.meetings().begin); show("end", x.size());\n'
        'show("row", x.row_at(0, 1, 2)); }\n'
    )
    binary = tmp_path / "layout"
    subprocess.run(["g++", "-std=c++17", f"-I{ROOT / 'jit_templates'}", program, "-o", binary], check=True)
    printed = subprocess.run([binary], check=True, capture_output=True, text=True).stdout
    real = {name: int(value) for name, value in (line.split("=") for line in printed.splitlines())}
    row = real.pop("row")
    assert starts == real
    assert sizes["bank 0"] == real["bank 1"] - real["bank 0"]
    assert re.search(rf"= {row}, and rank 1 alone", text)


def test_every_target_of_the_makefile_says_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    described = re.findall(r"^([a-z-]+):.*##", makefile, re.MULTILINE)
    assert sorted(described) == sorted(phony[1].split())
