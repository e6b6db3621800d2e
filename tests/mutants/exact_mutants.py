# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the kernels of groups with ``exact_combine``, of both algorithms."""

from __future__ import annotations

from mutant import Mutant

LOW_LATENCY = ("low-latency",)
HIGH_THROUGHPUT = ("high-throughput",)
WITHOUT_A_RANK = ("high-throughput-without-a-rank",)

MUTANTS = [
    Mutant(
        "products are not rounded",
        "ll/combine_exact.cuh",
        "add_rows<kDType, kRows, true>",
        "add_rows<kDType, kRows, false>",
        "Sums are not those of the plain loop.",
        LOW_LATENCY,
    ),
    Mutant(
        "rows are added in the order of the experts",
        "ht/combine_exact.cuh",
        "addends[num_addends + dev::popc(before)] = row;",
        "addends[route.hit] = row;",
        "Sums are not those of the plain loop.",
        HIGH_THROUGHPUT,
    ),
    Mutant(
        "what a lost rank has not sent is added",
        "ht/combine_exact.cuh",
        "dev::ballot(route.exists()) & ~lost",
        "dev::ballot(route.exists())",
        "There is something else in its place.",
        WITHOUT_A_RANK,
    ),
]
