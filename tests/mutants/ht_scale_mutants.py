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
        "ht/dispatch.cuh",
        "args.scales.given + uint64_t{token} *",
        "args.scales.given + uint64_t{token / 2} *",
        "Rows come with the scales of others.",
        IN_BYTES,
    ),
    Mutant(
        "padding keeps its scales",
        "ht/dispatch.cuh",
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
        "ht/dispatch.cuh",
        "    dev::fence_proxy_async();  // bulk copies will read what other warps have written\n",
        "",
        "Bulk copies may send what was there before.",
        QUANTIZED,
    ),
    Mutant(
        "combine looks at half of a group",
        "ht/combine_quantized.cuh",
        "i < kElementsOfLane;",
        "i < kElementsOfLane / 2;",
        "Larger elements in the other half are cut off.",
        COMBINED,
    ),
]
