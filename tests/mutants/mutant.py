# SPDX-License-Identifier: Apache-2.0
"""A deliberate bug in a kernel. Each must be noticed in every seed, or real ones would not be either."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One textual change of a kernel source.

    It replaces a snippet that occurs exactly once in its file, so a kernel that changes takes its mutants
    along.

    Attributes:
        name: what is wrong.
        file: below ``jit_templates``.
        original: the exact snippet.
        replacement: what takes its place.
        why: the damage it does.
        scenarios: of the algorithm's; every seed must notice it in at least one of them.
        only: a part of the names of the kernels that these need mutated; others stay as they are.
    """

    name: str
    file: str
    original: str
    replacement: str
    why: str
    scenarios: tuple[str, ...]
    only: str = ""

    def apply(self, text: str) -> str:
        """The mutated source."""
        occurrences = text.count(self.original)
        if occurrences != 1:
            raise ValueError(
                f"mutant {self.name}: its snippet occurs {occurrences} times in {self.file}, expected 1"
            )
        return text.replace(self.original, self.replacement)
