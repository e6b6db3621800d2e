# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in how High-Throughput groups do without ranks that do not answer."""

from __future__ import annotations

from mutant import Mutant

DIES = ("dies",)
QUANTIZES = ("quantizes",)
LATE = ("late",)
JUST_COUNTED = ("just-counted",)
UNEQUAL = ("unequal",)

MUTANTS = [
    Mutant(
        "whether a rank takes part is decided twice",
        "ht/participants.cuh",
        "while (said.ahead_of(op.epoch) < 0) {",
        "while (said.ahead_of(op.epoch) <= 0) {",
        "Who asks later hears something else than who has asked before.",
        UNEQUAL,
    ),
    Mutant(
        "a rank whose counts have not come is taken to be absent",
        "ht/participants.cuh",
        "return fetch_counts(op, rank) ? Verdict::present : Verdict::past;",
        "return Verdict::absent;",
        "Others have its counts, and rows elsewhere.",
        JUST_COUNTED,
    ),
    Mutant(
        "tokens go to ranks that do not take part",
        "ht/place.cuh",
        "if (expert == kNone || takes_part(op, expert / op.group.num_local_experts)) return expert;",
        "if (true) return expert;",
        "Rows are sent for places that nobody has counted.",
        LATE,
    ),
    Mutant(
        "a rank writes to peers that have gone on without it",
        "ht/operation.cuh",
        "    if (ahead > 0) lose(group, epoch, {Wait::peer_start, peer, 0});\n    return ahead == 0;\n",
        "    return ahead >= 0;\n",
        "What is old lands among what is new.",
        LATE,
    ),
    Mutant(
        "what lost ranks have not sent is added up",
        "ht/combine.cuh",
        "const uint32_t come = dev::ballot(exists) & ~lost,",
        "const uint32_t come = dev::ballot(exists),",
        "Sums have parts of an operation before.",
        DIES,
    ),
    Mutant(
        "quantized rows that lost ranks have not sent are added up",
        "ht/combine_quantized.cuh",
        "const uint32_t come = dev::ballot(exists) & ~lost,",
        "const uint32_t come = dev::ballot(exists),",
        "Sums have parts of an operation before.",
        QUANTIZES,
    ),
]
