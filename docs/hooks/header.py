# SPDX-License-Identifier: Apache-2.0
"""What a C header of this project declares and says about it: sections, structs, enumerations, functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass
class Member:
    """A field of a struct, or a value of an enumeration."""

    name: str
    type: str
    initial: str  # what the struct's INIT macro leaves there; an enumerator's value
    text: str
    offset: str = ""


@dataclass
class Declaration:
    """A struct or an enumeration with its members, or a function with its prototype."""

    kind: str
    name: str
    comment: list[str]
    members: list[Member] = field(default_factory=list)
    prototype: str = ""


@dataclass
class Section:
    """Declarations below one heading, and the comment that is about all of them."""

    title: str
    comment: list[str] = field(default_factory=list)
    declarations: list[Declaration] = field(default_factory=list)


_HEADING = re.compile(r"// ---- (.+?) -+$")
_TYPE = re.compile(r"typedef (struct|enum) \{(.*?)\} (\w+);", re.DOTALL)
_FUNCTION = re.compile(r"[\w ]+\*? ?\b(ncclEp\w+)\([^;{]*\);", re.DOTALL)
_FIELD = re.compile(r"^ +(.+?) ?(\w+)(\[\d+\])?;(?: +// (.*))?$", re.MULTILINE)
_CALLBACK = re.compile(r"^ +(\w+) \(\*(\w+)\)(\(.*?\));$", re.MULTILINE)
_ENUMERATOR = re.compile(r"(\w+) = (\d+),?[ \t]*(?://[ \t]*(.*))?")
_OFFSET = re.compile(r"NCCL_EP_STATIC_ASSERT_OFFSET\((\w+), (\w+), (\d+)\);")
_INITIALISER = re.compile(r"constexpr (\w+) ncclEp\w+Init\(\) \{(.*?)^\}", re.MULTILINE | re.DOTALL)


def uncommented(block: str) -> list[str]:
    """The lines of a comment without their slashes."""
    return [re.sub(r"^// ?", "", line) for line in block.splitlines()]


def opening_comment(text: str) -> list[str]:
    """What a header says before its first line of code, without the licence."""
    block = re.match(r"(?://.*\n)+", text)
    return uncommented(block[0])[1:] if block else []


def sections(text: str, enumerations: str = "") -> list[Section]:
    """Sections of a header that declare something, in order.

    Args:
        text: the header.
        enumerations: another header's text, whose enumerations its structs use.
    """
    zeros = {found[3]: members(found, text, {}) for found in _TYPE.finditer(enumerations + text)}
    zero_values = {name: found[0].name for name, found in zeros.items() if found and found[0].initial == "0"}
    found = [Section("")]
    for block in re.split(r"\n{2,}", text):
        heading = _HEADING.match(block)
        if heading:
            found.append(Section(heading[1]))
            continue
        comment, code = split_comment(block)
        declaration = declared(code, comment, text, zero_values)
        if declaration:
            found[-1].declarations.append(declaration)
        elif comment and not code and not found[-1].declarations:
            found[-1].comment = comment
    return [section for section in found if section.declarations]


def split_comment(block: str) -> tuple[list[str], str]:
    """The comment that a block begins with, and the rest of it."""
    comment = re.match(r"(?://.*(?:\n|$))*", block)
    end = comment.end() if comment else 0
    return uncommented(block[:end]), block[end:].strip()


def declared(code: str, comment: list[str], text: str, zero_values: dict[str, str]) -> Declaration | None:
    """What a block declares: the contract has one thing to a block."""
    if typedef := _TYPE.match(code):
        return Declaration(typedef[1], typedef[3], comment, members(typedef, text, zero_values))
    if function := _FUNCTION.match(code):
        return Declaration("function", function[1], comment, prototype=function[0])
    return None


def members(typedef: re.Match[str], text: str, zero_values: dict[str, str]) -> list[Member]:
    kind, body, name = typedef.groups()
    if kind == "enum":
        return [Member(m[1], "", m[2], (m[3] or "").strip()) for m in _ENUMERATOR.finditer(body)]
    offsets = {member: offset for struct, member, offset in _OFFSET.findall(text) if struct == name}
    set_by_macro = {
        member: value
        for struct, statements in _INITIALISER.findall(text)
        if struct == name
        for member, value in re.findall(r"result\.(\w+) = (\w+);", statements)
    }
    callbacks = [Member(m[2], f"{m[1]} (*){m[3]}", "NULL", "") for m in _CALLBACK.finditer(body)]
    fields = [
        Member(m[2], m[1] + (m[3] or ""), initial_value(m[1], zero_values), m[4] or "")
        for m in _FIELD.finditer(_CALLBACK.sub("", body))
    ]
    for member in (found := callbacks + fields):
        member.offset = offsets.get(member.name, "")
        member.initial = set_by_macro.get(member.name, member.initial)
    return found


def initial_value(type_name: str, zero_values: dict[str, str]) -> str:
    """What zero means in a field of this type."""
    if type_name.endswith("*") or type_name == "ncclWindow_t":
        return "NULL"
    return zero_values.get(type_name, "0")
