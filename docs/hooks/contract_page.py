# SPDX-License-Identifier: Apache-2.0
"""The contract as a page: tables made of a header's declarations and of what it says about them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import header

# Set by the macros that initialise a struct, and no business of callers.
_BOOKKEEPING = re.compile(r"size|magic|padding_v\d+")
_CODE = re.compile(r"`[^`]*`|\*?\b(?:nccl[A-Z]|NCCL_|cuda[A-Z])[\w<>]+|\*?\b[a-z]+(?:_[a-z\d]+)+(?:\.\w+)*\b")
_ITEM = re.compile(r" ?(\d+)\. (.*)")


def page(text: str, enumerations: str) -> str:
    """The contract in Markdown, of the text of ``nccl_ep.h`` and of the header with its enumerations."""
    found = header.sections(text, enumerations)
    kinds = [declaration for section in header.sections(enumerations) for declaration in section.declarations]
    names = {declaration.name for section in found for declaration in section.declarations}
    known = names | {declaration.name for declaration in kinds}
    parts = [prose(header.opening_comment(text), known), "## Functions", summary(found, known)]
    for section in found:
        parts += [f"## {section.title}", prose(section.comment, known)]
        parts += [described(declaration, known) for declaration in section.declarations]
    parts += ["## Choices", *(described(declaration, known) for declaration in kinds)]
    return "\n\n".join(part for part in parts if part) + "\n"


def summary(found: list[header.Section], known: set[str]) -> str:
    """Each function and the first sentence about it."""
    rows = [
        (linked(function.name, known), in_line(first_sentence(function.comment), known))
        for section in found
        for function in section.declarations
        if function.kind == "function"
    ]
    return table(("function", "what it does"), rows)


def first_sentence(comment: list[str]) -> str:
    return re.split(r"(?<=[\w`])[.:;](?: |$)", " ".join(comment), maxsplit=1)[0] + "."


def described(declaration: header.Declaration, known: set[str]) -> str:
    """A declaration under a heading of its own."""
    parts = [f"### `{declaration.name}` {{ #{declaration.name} }}"]
    if declaration.kind == "function":
        parts.append(f"```c\n{declaration.prototype}\n```")
    parts.append(prose(declaration.comment, known))
    if declaration.kind == "struct":
        rows = [
            (f"`{m.name}`", linked(m.type, known), f"`{m.initial}`", m.offset, in_line(m.text, known))
            for m in declaration.members
            if not _BOOKKEEPING.fullmatch(m.name)
        ]
        head = ("field", "type", "initially", "at byte", "")
        parts.append(table(head, rows) if rows else "It has no fields.")
    if declaration.kind == "enum":
        values = [(f"`{m.name}`", m.initial, in_line(m.text, known)) for m in declaration.members]
        parts.append(table(("name", "value", ""), values))
    return "\n\n".join(part for part in parts if part)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(comment: list[str], known: set[str]) -> str:
    """A comment in Markdown: paragraphs, numbered items, and indented lines as they are."""
    return "\n\n".join(
        "```text\n" + "\n".join(lines) + "\n```" if kind == "as it is" else in_line(" ".join(lines), known)
        for kind, lines in pieces(comment)
    )


def pieces(comment: list[str]) -> Iterator[tuple[str, list[str]]]:
    """A comment's paragraphs, items and indented blocks, one after the other."""
    kind, lines = "", list[str]()
    for line in comment:
        item = _ITEM.match(line)
        indented = line.startswith("  ")
        continues = kind == "item" and indented and line.strip() != ""
        wanted = kind if continues else "item" if item else "as it is" if indented else "paragraph"
        starts = item or wanted != kind or not line.strip() or line.startswith("Collective")
        if starts and lines:
            yield kind, lines
            lines = []
        if not line.strip():
            kind = ""
            continue
        kind = wanted
        lines.append(line.strip() if kind != "as it is" else line[2:])
    if lines:
        yield kind, lines


def in_line(text: str, known: set[str]) -> str:
    """Text with names in the font of code; those that the page describes lead there."""
    text = re.sub(r"(?:^|(?<=\.)) ?Errors:", "\n\n**Errors:**", text).lstrip()
    return _CODE.sub(lambda found: linked(found[0].strip("`"), known), text)


def linked(code: str, known: set[str]) -> str:
    name = code.strip("* ")
    return f"[`{code}`](#{name})" if name in known else f"`{code}`"
