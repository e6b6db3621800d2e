# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the Low-Latency kernels whose rows have scales."""

from __future__ import annotations

from mutant import Mutant

FORWARDED = ("forwarded",)
QUANTIZED = ("quantized",)
COMBINED = ("combined",)

MUTANTS = [
    Mutant(
        "scales are put into the wrong row",
        "ll/payload.cuh",
        "args.scales.to + place * args.scales.bytes_per_row",
        "args.scales.to + (place ^ 1) * args.scales.bytes_per_row",
        "A row has the scales of another one.",
        FORWARDED,
    ),
    Mutant(
        "elements are divided by the scale of the group beside theirs",
        "ll/payload.cuh",
        "scales.inverse(part.index / kPacksPerGroup)",
        "scales.inverse(part.index / kPacksPerGroup + 1)",
        "Numbers and scales do not belong together.",
        QUANTIZED,
    ),
    Mutant(
        "scales are counted from the chunk's first pack",
        "ll/payload.cuh",
        "first_group(chunk.first_pack() / (kPacksPerBlock + 1) * kGroupsPerBlock)",
        "first_group(chunk.first_pack() / kPacksPerGroup)",
        "The second chunk of a row begins inside a block, whose scales it sends.",
        QUANTIZED,
    ),
    Mutant(
        "scales reach beyond the largest number",
        "common/quantize.cuh",
        "kLargestE4m3 = 448",
        "kLargestE4m3 = 480",
        "The largest element of each group is cut off.",
        QUANTIZED,
    ),
    Mutant(
        "combine takes the scale of the group beside",
        "ll/quantized_sums.cuh",
        "if (lane % 4 == i) scale = word;",
        "if ((lane + 1) % 4 == i) scale = word;",
        "Numbers and scales do not belong together.",
        COMBINED,
    ),
]
