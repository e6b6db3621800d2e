# SPDX-License-Identifier: Apache-2.0
"""A picture and a table as a web page that needs no other file."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .15em .8em; text-align: right; border-bottom: 1px solid #ddd; }
svg { max-width: 100%; height: auto; }
.wrong { color: #b00; font-weight: bold; }
"""


def web_page(
    title: str, about: Iterable[str], figure: Any, headings: Iterable[str], rows: Sequence[Sequence[str]],
    wrong: Sequence[bool] = (),
) -> str:  # fmt: skip
    """The page.

    Args:
        about: paragraphs above the picture.
        figure: matplotlib's.
        headings: of the table.
        rows: its cells.
        wrong: which rows are shown as wrong; default: none.
    """
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    svg = picture.getvalue()
    paragraphs = "".join(f"<p>{escape(line)}</p>" for line in about)
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    marks = wrong or [False] * len(rows)
    lines = "".join(_line(cells, is_wrong) for cells, is_wrong in zip(rows, marks, strict=True))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        f"<h1>{title}</h1>{paragraphs}{svg[svg.index('<svg') :]}"
        f"<table><tr>{head}</tr>{lines}</table></html>\n"
    )


def _line(cells: Sequence[str], is_wrong: bool) -> str:
    inside = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
    return f"<tr{' class=wrong' if is_wrong else ''}>{inside}</tr>"
