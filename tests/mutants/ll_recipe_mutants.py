# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the Low-Latency kernels whose rows have scales."""

from __future__ import annotations

from mutant import Mutant

FORWARDED = ("forwarded",)
QUANTIZED = ("quantized",)
COMBINED = ("combined",)
RETURNED = ("returned",)

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
        "the second peer's rows go to the first",
        "ll/dispatch.cuh",
        "op.team.peer(op.group.rank, i + p * team.num_teams)",
        "op.team.peer(op.group.rank, i)",
        "Who quantizes for two peers serves one of them.",
        QUANTIZED,
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
    Mutant(
        "NVFP4 numbers get the scales of the lane beside",
        "ll/nvfp4_sums.cuh",
        "of_two >> 16 * (lane % 2)",
        "of_two >> 16 * ((lane + 1) % 2)",
        "Numbers and scales do not belong together.",
        RETURNED,
    ),
    Mutant(
        "the two scales of a lane change places",
        "ll/nvfp4_sums.cuh",
        "dev::mul(scale[w / 2], inverse)",
        "dev::mul(scale[1 - w / 2], inverse)",
        "Numbers and scales do not belong together.",
        RETURNED,
    ),
    Mutant(
        "a row has the global scale of the one beside",
        "ll/nvfp4_sums.cuh",
        "args.global_scales + row",
        "args.global_scales + (row ^ 1)",
        "The sum is larger than its global scale says and is cut off, or it is NaN.",
        RETURNED,
    ),
    Mutant(
        "the global scale of a sum takes weights with their sign",
        "ll/nvfp4_sums.cuh",
        "dev::bits_from_float(addends[row].weight) & 0x7fffffff",
        "dev::bits_from_float(addends[row].weight)",
        "The sum is larger than its global scale says and is cut off.",
        RETURNED,
    ),
    Mutant(
        "not all lanes take part in the global scale of a sum",
        "ll/nvfp4_sums.cuh",
        "other > 0; other /= 2",
        "other > 1; other /= 2",
        "Every other row is missing in it: the sum is cut off.",
        RETURNED,
    ),
    Mutant(
        "NVFP4 scales reach beyond the largest number",
        "common/nvfp4.cuh",
        "1 / 6.0f",
        "1 / 8.0f",
        "The largest elements of each group are cut off.",
        RETURNED,
    ),
    Mutant(
        "elements that are not finite pass for large ones",
        "common/nvfp4.cuh",
        "magnitude[i] >= kInfinity",
        "magnitude[i] > kNan",
        "Infinity comes home as a number.",
        RETURNED,
    ),
    Mutant(
        "a global scale of 0 is divided by",
        "common/nvfp4.cuh",
        "scale == 0 ? 0 : dev::reciprocal(scale)",
        "dev::reciprocal(scale)",
        "A row of zeros makes sums NaN.",
        RETURNED,
    ),
    Mutant(
        "global scales have no bound",
        "common/nvfp4.cuh",
        "if (inverse < kLeast) inverse = kLeast;",
        "",
        "A row of zeros has an infinite one, and its elements are NaN.",
        RETURNED,
    ),
]
