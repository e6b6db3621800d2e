# SPDX-License-Identifier: Apache-2.0
"""Where files of the repository are found on the site.

Pages link to each other and to sources by paths, so that links work wherever the repository is shown. The
site has the pages of docs/ at its root, some others beside them, and a page for each source that a
page links to.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

BESIDE_DOCS = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "examples/drop_in/README.md": "drop_in.md",
}
_LANGUAGES = {".h": "c", ".c": "c", ".hpp": "cpp", ".cpp": "cpp", ".cuh": "cpp", ".py": "python"}

_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def on_site(path: str) -> str:
    """The page that has this file of the repository."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return BESIDE_DOCS.get(path) or f"source/{path}.md"


def in_prose(markdown: str, change: Callable[[str], str]) -> str:
    """Markdown with its links changed, but for what looks like one in code."""
    parts = _FENCE.split(markdown)
    parts[::2] = [_LINK.sub(lambda found: f"]({change(found[1])})", part) for part in parts[::2]]
    return "".join(parts)


def target(page: str, link: str) -> str | None:
    """The file of the repository that a link of this page leads to, if it is one."""
    path = link.partition("#")[0]
    if not path or "://" in path:
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), path))


def moved(markdown: str, page: str) -> str:
    """A page of the repository with links that are right on the site."""
    home = posixpath.dirname(on_site(page)) or "."

    def change(link: str) -> str:
        path = target(page, link)
        anchor = "".join(link.partition("#")[1:])
        return link if path is None else posixpath.relpath(on_site(path), home) + anchor

    return in_prose(markdown, change)


def sources(root: Path, pages: list[str]) -> dict[str, str]:
    """Pages for what the given ones link to outside of docs/, by the path of the source."""
    wanted = sorted({path for page in pages for path in linked(root, page) if not is_page(path)})
    made = dict[str, str]()
    while wanted:
        path = wanted.pop()
        if path not in made:
            made[path] = source_page(root, path)
            wanted += children(root, path)
    return made


def is_page(path: str) -> bool:
    return path.startswith("docs/") or path in BESIDE_DOCS


def linked(root: Path, page: str) -> Iterator[str]:
    prose = "".join(_FENCE.split((root / page).read_text())[::2])
    return (path for link in _LINK.findall(prose) if (path := target(page, link)) is not None)


def children(root: Path, path: str) -> list[str]:
    """Sources in a folder, and its folders."""
    if (root / path).is_file():
        return []
    inside = (child for child in (root / path).iterdir() if child.is_dir() or child.suffix in _LANGUAGES)
    return sorted(f"{path}/{child.name}" for child in inside)


def source_page(root: Path, path: str) -> str:
    """A source as a page; of a folder, what is in it."""
    front = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    if (root / path).is_dir():
        base = posixpath.dirname(path) or "."
        return front + "".join(f"* [{p}]({posixpath.relpath(p, base)}.md)\n" for p in children(root, path))
    language = _LANGUAGES.get(Path(path).suffix, "text")
    return f"{front}````{language}\n{(root / path).read_text()}````\n"
