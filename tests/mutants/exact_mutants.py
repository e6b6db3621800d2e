# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the kernels of groups with ``exact_combine``, of both algorithms."""

from __future__ import annotations

from mutant import Mutant

LOW_LATENCY = ("low-latency",)
LOW_LATENCY_TEAMS = ("low-latency-teams",)
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
        "a rank's rows for another team are counted with those of other ranks",
        "ll/combine_exact.cuh",
        "hit += home.rank_of(other) == home.rank_of(expert[i]);",
        "++hit;",
        "They are looked for behind those that came.",
        LOW_LATENCY_TEAMS,
    ),
    Mutant(
        "an expert that stands twice in the top-k is taken for two",
        "ll/combine_exact.cuh",
        "if (other == kNone || !stands_first || k >= first[i]) continue;",
        "if (other == kNone || k >= first[i]) continue;",
        "Its rank sends one row for both.",
        LOW_LATENCY_TEAMS,
    ),
    Mutant(
        "rows leave for another team before all lanes have written theirs",
        "ll/combine_exact_remote.cuh",
        "    dev::sync_warp();  // all of the rows have been written\n",
        "",
        "The network reads what is not there yet.",
        LOW_LATENCY_TEAMS,
    ),
    Mutant(
        "only the first of a token's rows leaves for another team",
        "ll/combine_exact_remote.cuh",
        "item.token, i, local.num_rows * row_bytes);",
        "item.token, i, row_bytes);",
        "The others are those of an earlier operation.",
        LOW_LATENCY_TEAMS,
    ),
    Mutant(
        "nobody signals where no weights travel",
        "ll/combine_exact_remote.cuh",
        "    if (sends && leads()) put_no_weights(op, remote);\n",
        "",
        "Signals of heads count operations: a dispatch waits for one that does not come.",
        LOW_LATENCY_TEAMS,
    ),
    Mutant(
        "rows are added in the order of the experts",
        "ht/combine_exact.cuh",
        "    list_those(come, row, addends, num_addends);\n",
        "    if (route.exists()) addends[route.hit] = row;\n    num_addends += dev::popc(come);\n",
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
