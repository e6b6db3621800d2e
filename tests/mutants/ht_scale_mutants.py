# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in how High-Throughput dispatch moves and makes scales, and combine makes them."""

from __future__ import annotations

from mutant import Mutant

IN_BULK = ("in-bulk",)
IN_BYTES = ("in-bytes",)
QUANTIZED = ("quantized",)
COMBINED = ("combined",)
APART = ("apart",)
APART_QUANTIZED = ("apart-quantized",)
SUMMED = ("summed",)
BETWEEN = ("between",)

MUTANTS = [
    Mutant(
        "scales go to the wrong row",
        "ht/dispatch.cuh",
        "to.scales.at(place)}",
        "to.scales.at(row)}",
        "Experts read the scales of other rows.",
        IN_BULK,
    ),
    Mutant(
        "scales are those of a neighbour",
        "ht/dispatched_rows.cuh",
        "args.scales.given + uint64_t{token} *",
        "args.scales.given + uint64_t{token / 2} *",
        "Rows come with the scales of others.",
        IN_BYTES,
    ),
    Mutant(
        "padding keeps its scales",
        "ht/deliver.cuh",
        "      if (kHasScales) clear_scales(",
        "      if (false) clear_scales(",
        "The caller reads what was there before.",
        IN_BULK,
    ),
    Mutant(
        "scales are published before all lanes have stored them",
        "ht/scaled_mover.cuh",
        "    dev::sync_warp();  // what all lanes have copied is one lane's to publish\n",
        "",
        "A row's flag is raised without its scales.",
        IN_BYTES,
    ),
    Mutant(
        "a flow is said to be done before its scales have come",
        "ht/scales_apart.cuh",
        "return kHasScales && scales.go == ScalesGo::apart ? 2 * num_rows : num_rows;",
        "return num_rows;",
        "Experts read scales that are not there yet, or wait forever.",
        APART,
    ),
    Mutant(
        "scales that go apart are counted before all lanes have stored them",
        "ht/scales_apart.cuh",
        "  dev::sync_warp();  // what all lanes have stored is one lane's to count\n",
        "",
        "Experts read scales that are not there yet.",
        APART,
    ),
    Mutant(
        "scales leave before they are made",
        "ht/scales_apart.cuh",
        " || !dev::all(!exists || tokens.await(mine.token))) return false;",
        ") return false;",
        "Those of an earlier operation arrive.",
        APART_QUANTIZED,
    ),
    Mutant(
        "scales go to a rank that has not started",
        "ht/scales_apart.cuh",
        "if (!dev::all(op.await_peer(flow))) {",
        "if (false) {",
        "Its output is still being read.",
        APART,
    ),
    Mutant(
        "quantized rows leave without a fence",
        "ht/dispatched_rows.cuh",
        "    dev::fence_proxy_async();  // bulk copies will read what other warps have written\n",
        "",
        "Bulk copies may send what was there before.",
        QUANTIZED,
    ),
    Mutant(
        "combine looks at half of a group",
        "ht/sum_mover.cuh",
        "other < kLanesOfGroup;",
        "other < kLanesOfGroup / 2;",
        "Larger elements in the other half are cut off.",
        COMBINED,
    ),
    Mutant(
        "combine loads the next part before all lanes have read the last one",
        "ht/sum_mover.cuh",
        "    dev::sync_warp();  // all lanes have read what was there\n",
        "",
        "Lanes add up parts of other rows.",
        SUMMED,
    ),
    Mutant(
        "combine takes a list before all lanes have written it",
        "ht/sum_mover.cuh",
        "    dev::sync_warp();  // all of the list is written\n",
        "",
        "Slots of other rows are added up.",
        SUMMED,
    ),
    Mutant(
        "combine writes into a stage that has not been sent",
        "ht/sum_mover.cuh",
        "      if (leads()) dev::bulk_wait_read<kHtSumStages - 1>();\n",
        "",
        "A row arrives with numbers of a later one.",
        COMBINED,
    ),
    Mutant(
        "combine sends a piece before all lanes have written it",
        "ht/sum_mover.cuh",
        "      dev::sync_warp();  // all of the piece is written\n",
        "",
        "A row arrives with numbers of an earlier one.",
        COMBINED,
    ),
    Mutant(
        "quantized sums leave without a fence",
        "ht/sum_mover.cuh",
        "    dev::fence_proxy_async();\n",
        "",
        "Bulk copies may send what was there before.",
        COMBINED,
    ),
    Mutant(
        "combine says too soon that a row has arrived",
        "ht/sum_mover.cuh",
        "flags.finish((num_stores + 1 - kStoresBehind) / plan.num_pieces)",
        "flags.finish((num_stores + 1) / plan.num_pieces)",
        "The home rank adds up what is still on its way.",
        COMBINED,
    ),
    Mutant(
        "combine takes the scale of a neighbour",
        "ht/quantized_rows.cuh",
        "const float scale = i < 4 ? first_scale : second_scale;",
        "const float scale = first_scale;",
        "Every other group is too large or too small.",
        COMBINED,
    ),
    Mutant(
        "what crosses has the scales of half a group",
        "ht/combine_quantized_remote.cuh",
        "other < LaneNumbers::kLanesOfPair;",
        "other < LaneNumbers::kLanesOfPair / 2;",
        "Larger elements in the other half are cut off.",
        BETWEEN,
    ),
    Mutant(
        "a group without a partner has two scales",
        "ht/combine_quantized_remote.cuh",
        "  if (mine.share_scale) most[0] = most[1] = dev::max_abs(most[0], most[1]);\n",
        "",
        "Every other eight elements of what crosses are too large or too small.",
        BETWEEN,
    ),
]
