# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in how High-Throughput groups do without ranks that do not answer."""

from __future__ import annotations

from mutant import Mutant

DIES = ("dies",)
QUANTIZES = ("quantizes",)
LATE = ("late",)
JUST_COUNTED = ("just-counted",)
BLOCKS = ("several-blocks",)
UNEQUAL = ("unequal",)

MUTANTS = [
    Mutant(
        "whether a rank takes part is decided twice",
        "ht/participants.cuh",
        "while (said.ahead_of(epoch) < 0) {",
        "while (said.ahead_of(epoch) <= 0) {",
        "Who asks later hears something else than who has asked before.",
        UNEQUAL,
    ),
    Mutant(
        "a rank whose counts have not come is taken to be absent",
        "ht/participants.cuh",
        "  if (verdict == Verdict::absent) return verdict;\n",
        "  if (true) return Verdict::absent;\n",
        "Others have its counts, and rows elsewhere.",
        JUST_COUNTED,
    ),
    Mutant(
        "a rank sends its counts without saying that it takes part",
        "ht/participants.cuh",
        "(!failed && say_so() == Verdict::present)",
        "true",
        "Who has them counts it, and who has not says that it is absent.",
        JUST_COUNTED,
    ),
    Mutant(
        "a rank keeps no counts for those that miss them",
        "ht/participants.cuh",
        "    dev::st_unit(kept_counts(op, group.rank, u), unit);\n",
        "",
        "They are left behind.",
        JUST_COUNTED,
    ),
    Mutant(
        "blocks do not ask block 0 for what they miss",
        "ht/participants.cuh",
        "found_of(op, op.group.rank).ahead_of(op.epoch) == 0);",
        "false);",
        "They wait for ever.",
        BLOCKS,
    ),
    Mutant(
        "blocks that miss counts add to what they have",
        "ht/participants.cuh",
        "if (!agree(op, others, enters) || !add_blocks(op, args, scratch, others)) return false;",
        "if (!agree(op, others, enters)) return false;",
        "Some counts are there twice.",
        JUST_COUNTED,
    ),
    Mutant(
        "tokens go to ranks that do not take part",
        "ht/routes.cuh",
        "  if (expert == kNone) return kNone;\n",
        "  if (true) return expert;\n",
        "Rows are sent for places that nobody has counted.",
        LATE,
    ),
    Mutant(
        "routes are kept that were found before it was known who takes part",
        "ht/place.cuh",
        "const bool first_hold = !thins && all_take_part(op) && departures.all_have_told();",
        "const bool first_hold = !thins;",
        "Tokens go to ranks that do not take part.",
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
        "list_those(dev::ballot(exists) & ~lost, ",
        "list_those(dev::ballot(exists), ",
        "Sums have parts of an operation before.",
        DIES,
    ),
    Mutant(
        "quantized rows that lost ranks have not sent are added up",
        "ht/combine.cuh",
        "  if (lanes >> dev::lane_idx() & 1) addends[num_addends + dev::popc(before)] = mine;\n",
        "  if (mine) addends[num_addends + dev::lane_idx()] = mine;\n",
        "They are in others' places, and those of an operation before.",
        QUANTIZES,
        only="quantized",
    ),
]
