# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the High-Throughput kernels of groups with ``exact_combine`` across LSA teams."""

from __future__ import annotations

from mutant import Mutant

FORWARD = ("forward",)
BACKWARD = ("backward",)
RANK = ("rank-dies-before-combine",)
MINUS_ZEROS = ("rank-dies-among-minus-zeros",)
NODE = ("node-dies-before-combine",)

MUTANTS = [
    Mutant(
        "a guest's rows go to the slots of its destinations",
        "ht/guest_list.cuh",
        "    if (kExpertMajor && args.group.layout.slots_are_of_hits) set_home_place(unit, hits.first);\n",
        "",
        "Rows of several hits overwrite one another.",
        FORWARD,
    ),
    Mutant(
        "a guest's rows are sent on that have not come",
        "ht/combine_exact.cuh",
        "  if (!await_rows(op, awaited, is_here && !in_place, slot, lost)) return false;\n",
        "",
        "Rows of an operation before go home.",
        FORWARD,
    ),
    Mutant(
        "rows of other teams are added that have not come",
        "ht/combine_exact.cuh",
        "  if (!others.await_sum(op, route.dest, route.exists() && !is_here, lost)) return false;\n",
        "",
        "Rows of an operation before are added.",
        FORWARD,
    ),
    Mutant(
        "all of a token's rows from a team are taken to be the first",
        "ht/combine_exact_remote.cuh",
        "return this->sum_of(dest) + uint64_t{hit} * args.move.row_bytes;",
        "return this->sum_of(dest);",
        "The others are missing.",
        FORWARD,
    ),
    Mutant(
        "a signal for several puts is weak",
        "ht/rails.cuh",
        "dev::strong(arrived, op.epoch - dev::ld(sent))",
        "dev::weak(arrived, op.epoch - dev::ld(sent))",
        "What was put may land after it.",
        FORWARD,
    ),
    Mutant(
        "a chunk is told of before all lanes have put their parcels",
        "ht/combine_exact_remote.cuh",
        "    dev::sync_warp();  // one lane tells of what all have put\n",
        "",
        "The signal says nothing of those of other lanes.",
        FORWARD,
    ),
    Mutant(
        "parcels are put by lanes that do not know them",
        "ht/combine_exact_remote.cuh",
        "    dev::sync_warp();  // all lanes know of the parcels that other warps have written\n",
        "",
        "The network may read what was there before.",
        FORWARD,
    ),
    Mutant(
        "gradients are sought behind as many rows as there may be",
        "ht/combine_remote.cuh",
        "(parcel + uint64_t{num_hits} * args.move.row_bytes)",
        "(parcel + args.parcels.row_bytes)",
        "Nobody has sent them there.",
        BACKWARD,
    ),
    Mutant(
        "a guest's gradients are sought where sums have theirs",
        "ht/combine_remote.cuh",
        "return group.layout.home_slot(token, kRoutes ? dest.hits.first : i);",
        "return group.layout.home_slot(token, i);",
        "They are waited for in vain, or are another rank's.",
        BACKWARD,
    ),
    Mutant(
        "what stands in a lost row's place goes home",
        "ht/combine_exact_remote.cuh",
        "fill_row(minus_zeros(args.dtype), row_bytes, to);",
        "",
        "It is a row of an operation before.",
        RANK,
    ),
    Mutant(
        "zeros stand for lost rows",
        "ht/combine_exact_remote.cuh",
        "dtype == DType::fp32 ? 0x80000000u : 0x80008000u",
        "dtype == DType::fp32 ? 0x80000000u : 0u",
        "A sum of -0 becomes another one.",
        MINUS_ZEROS,
    ),
    Mutant(
        "rows of a lost team are added",
        "ht/combine_exact.cuh",
        "dev::ballot(route.exists()) & ~lost",
        "dev::ballot(route.exists())",
        "They are those of an operation before.",
        NODE,
    ),
]
