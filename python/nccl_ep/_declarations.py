# SPDX-License-Identifier: Apache-2.0
"""Reads C declarations for cffi out of the installed headers, so that Python cannot drift from the C API.

This is the small part of a C preprocessor that a header of plain declarations needs: quoted includes,
conditionals over macros, object-like macros. Function-like macros only ever build initialisers and static
assertions in our headers; their uses between declarations are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_DIRECTIVE = re.compile(r"\s*#\s*(\w+)\s*(.*)")
_IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*\b")
_INTEGER = re.compile(r"\(*\s*(0[xX][0-9a-fA-F]+|\d+)[uUlL]*\s*\)*")


@dataclass
class Declarations:
    """What headers declare: text that cffi can parse, and the macros that are plain integers."""

    source: str = ""
    constants: dict[str, int] = field(default_factory=dict)


def read_declarations(headers: list[Path], include_dir: Path, macros: dict[str, str]) -> Declarations:
    """Reads headers in order, as a C compiler with these macros defined would.

    Args:
        headers: files to read; each is read once, however often it is included.
        include_dir: where ``#include`` finds our headers; headers found nowhere are the system's and are
            skipped.
        macros: object-like macros that are defined before the first line.
    """
    reader = _Reader(include_dir, dict(macros))
    for header in headers:
        reader.read(header)
    source = _without_calls(
        "".join(reader.lines), reader.function_macros | {"_Static_assert", "static_assert"}
    )
    source = _without_calls(source, {"__attribute__"}, statement=False)
    return Declarations(source, reader.constants())


class _Reader:
    def __init__(self, include_dir: Path, macros: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.function_macros: set[str] = set()
        self._macros = macros
        self._include_dir = include_dir
        self._seen: set[Path] = set()

    def read(self, path: Path) -> None:
        if path in self._seen:
            return
        self._seen.add(path)
        text = _COMMENT.sub(" ", path.read_text().replace("\\\n", " "))
        conditions = _Conditions()
        for line in text.splitlines():
            directive = _DIRECTIVE.match(line)
            if directive is None:
                if conditions.active:
                    self.lines.append(self._expand(line) + "\n")
            elif directive[1] in ("if", "ifdef", "ifndef", "elif", "else", "endif"):
                conditions.step(directive[1], partial(self._truth, directive[1], directive[2]))
            elif conditions.active:
                self._obey(directive[1], directive[2].strip(), path.parent)

    def constants(self) -> dict[str, int]:
        values = {name: _INTEGER.fullmatch(self._expand(text)) for name, text in self._macros.items()}
        return {name: int(value[1], 0) for name, value in values.items() if value}

    def _obey(self, name: str, rest: str, folder: Path) -> None:
        if name == "include":
            for candidate in (folder / rest.strip('<>"'), self._include_dir / rest.strip('<>"')):
                if candidate.is_file():
                    self.read(candidate.resolve())
                    break
        elif name == "define":
            macro = re.match(r"(\w+)(\(?)\s*(.*)", rest)
            if macro and macro[2]:
                self.function_macros.add(macro[1])
            elif macro:
                self._macros[macro[1]] = macro[3].strip()
        elif name == "undef":
            self._macros.pop(rest, None)
        elif name == "error":
            raise ValueError(f"header says: {rest}")

    def _expand(self, line: str) -> str:
        for _ in range(8):
            expanded = _IDENTIFIER.sub(lambda name: self._macros.get(name[0], name[0]), line)
            if expanded == line:
                break
            line = expanded
        return line

    def _truth(self, directive: str, expression: str) -> bool:
        if directive in ("ifdef", "ifndef"):
            return (expression.strip() in self._macros) == (directive == "ifdef")
        expression = re.sub(
            r"\bdefined\s*\(?\s*(\w+)\s*\)?", lambda name: str(int(name[1] in self._macros)), expression
        )
        expression = _IDENTIFIER.sub("0", self._expand(expression))
        expression = re.sub(r"(\d)[uUlL]+\b", r"\1", expression)
        expression = re.sub(r"!(?!=)", " not ", expression).replace("&&", " and ").replace("||", " or ")
        return bool(eval(expression, {"__builtins__": {}}))


class _Conditions:
    """Which of the nested ``#if`` branches are being read."""

    def __init__(self) -> None:
        self._branches: list[tuple[bool, bool]] = []  # (this branch is read, some branch so far was)

    @property
    def active(self) -> bool:
        return all(read for read, _ in self._branches)

    def step(self, directive: str, truth: Callable[[], bool]) -> None:
        if directive in ("if", "ifdef", "ifndef"):
            taken = self.active and truth()
            self._branches.append((taken, taken))
        elif directive == "endif":
            self._branches.pop()
        else:
            _, done = self._branches.pop()
            taken = not done and self.active and (directive == "else" or truth())
            self._branches.append((taken, done or taken))


def _without_calls(source: str, names: set[str], *, statement: bool = True) -> str:
    """Removes ``NAME(...)``, and the semicolon after it when it is a statement of its own."""
    call = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names)))})\s*\(")
    while found := call.search(source):
        depth, end = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(source[end], 0)
            end += 1
        if statement:
            end += re.match(r"\s*;?", source[end:]).end()  # type: ignore[union-attr]
        source = source[: found.start()] + source[end:]
    return source
