# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the kernels. Each must be noticed in every seed, or real ones would not be either.

A mutant replaces a snippet that occurs exactly once in its file, so a kernel that changes takes its mutants
along.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """One textual change of a kernel source.

    Attributes:
        name: what is wrong.
        file: below ``jit_templates``.
        original: the exact snippet.
        replacement: what takes its place.
        why: the damage it does.
        scenarios: of scenario.py; every seed must notice it in at least one of them.
    """

    name: str
    file: str
    original: str
    replacement: str
    why: str
    scenarios: tuple[str, ...]

    def apply(self, text: str) -> str:
        """The mutated source."""
        occurrences = text.count(self.original)
        if occurrences != 1:
            raise ValueError(
                f"mutant {self.name}: its snippet occurs {occurrences} times in {self.file}, expected 1"
            )
        return text.replace(self.original, self.replacement)


FEW = ("expert-major",)
RANK_MAJOR = ("rank-major", "rank-major-many")
MANY = ("expert-major-many", "expert-major")
MANY_HITS = ("many-hits",)
FEW_BLOCKS = ("few-blocks",)
IDLE_RECEIVER = ("idle-receiver",)  # otherwise what the peers send tells that their banks are free
SILENT_RECEIVER = ("silent-receiver",)
SILENT_SOURCE = ("silent-source",)
IMPATIENT = ("impatient",)

OPERATION = [
    Mutant(
        "banks do not alternate",
        "ll/operation.cuh",
        "bank(op_epoch % LlLayout::kNumBanks)",
        "bank(0)",
        "Rows of the operation before are overwritten while they are read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "epochs stand still",
        "ll/operation.cuh",
        "dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1",
        "dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch)",
        "What an operation finds in fresh memory looks as if it had arrived.",
        FEW,
    ),
    Mutant(
        "a unit of any epoch is taken",
        "ll/operation.cuh",
        "return unit.epoch == epoch;",
        "return unit.epoch != 0;",
        "Counts of two operations ago are taken for new ones.",
        FEW,
    ),
    Mutant(
        "a bank is taken to be free one operation too early",
        "ll/operation.cuh",
        "consumed + LlLayout::kNumBanks - op.epoch",
        "consumed + LlLayout::kNumBanks + 1 - op.epoch",
        "A peer overwrites a bank while this rank still reads it.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "an operation counts when the first block is done",
        "ll/operation.cuh",
        "if (before + 1 != dev::num_blocks()) return;",
        "if (before != 0) return;",
        "Blocks that start late take the next operation's number.",
        ("idle-blocks",),
    ),
    Mutant(
        "blocks are counted without an atomic",
        "ll/operation.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(&progress->blocks_done, 1u)",
        "progress->blocks_done++",
        "Two blocks see the same count, and none is the last.",
        FEW,
    ),
]

ROUTING = [
    Mutant(
        "peers are not awaited",
        "ll/routing.cuh",
        "(!sends || await_peers(op)) && ",
        "",
        "A bank may be overwritten while it is read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "sets are filled before they are clear",
        "ll/routing.cuh",
        "ready[0] = ok;\n    }\n    dev::sync_block();",
        "ready[0] = ok;\n    }",
        "Tokens that were entered are cleared again.",
        FEW,
    ),
    Mutant(
        "work begins without the block's barrier",
        "ll/routing.cuh",
        "dev::sync_block();\n  return ready[0] != 0;",
        "return ready[0] != 0;",
        "Warps send to banks that only another warp knows to be free, and read sets that are being filled.",
        FEW,
    ),
    Mutant(
        "hits are read before all are collected",
        "ll/routes.cuh",
        "  });\n  dev::sync_block();\n}",
        "  });\n}",
        "Routes miss hits.",
        FEW,
    ),
    Mutant(
        "hits are collected before the last ones are cleared",
        "ll/routes.cuh",
        "scratch.num_words);\n    dev::sync_block();",
        "scratch.num_words);",
        "Hits that were set are cleared again.",
        FEW,
    ),
    Mutant(
        "hits are cleared for the next peer while they are read",
        "ll/routes.cuh",
        "scratch, peer, pass);\n    dev::sync_block();\n  }",
        "scratch, peer, pass);\n  }",
        "Routes miss hits.",
        FEW_BLOCKS,
    ),
    Mutant(
        "tokens are put into sets without an atomic",
        "ll/routing.cuh",
        "dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(word + token / 32, 1u << token % 32);",
        "word[token / 32] |= 1u << token % 32;",
        "Tokens of other lanes are lost.",
        FEW,
    ),
    Mutant(
        "hits are noted without an atomic",
        "ll/routes.cuh",
        "dev::atomic_or<dev::Order::relaxed, dev::Scope::block>("
        "scratch.hits + 2 * token + k / 32, 1u << k % 32);",
        "scratch.hits[2 * token + k / 32] |= 1u << k % 32;",
        "Hits of other lanes are lost.",
        FEW,
    ),
    Mutant(
        "routes are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(units + scratch.hit_of(token, k), route.encode(op.epoch));",
        "dev::st(units + scratch.hit_of(token, k), route.encode(op.epoch));",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "counts are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(op.counts(peer, source, 1 + first / 3), unit);",
        "dev::st(op.counts(peer, source, 1 + first / 3), unit);",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "counts of tokens are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(op.counts(peer, source, 0), unit);",
        "dev::st(op.counts(peer, source, 0), unit);",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "that a token has no routes is sent as an ordinary store",
        "ll/routes.cuh",
        "dev::st_unit(units, Route{}.encode(op.epoch));",
        "dev::st(units, Route{}.encode(op.epoch));",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
]

ROWS = [
    Mutant(
        "lines are sent as ordinary stores",
        "ll/rows.cuh",
        "dev::st_line(lines + 32 * s + dev::lane_idx(), unit, words[s].in_line);",
        "if (words[s].in_line) dev::st(lines + 32 * s + dev::lane_idx(), unit);",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "lines are sent as units",
        "ll/rows.cuh",
        "dev::st_line(lines + 32 * s + dev::lane_idx(), unit, words[s].in_line);",
        "if (words[s].in_line) dev::st_unit(lines + 32 * s + dev::lane_idx(), unit);",
        "The tag vouches for the other lanes' units too.",
        MANY,
    ),
    Mutant(
        "a line of any epoch is taken",
        "ll/rows.cuh",
        "arrived &= word[s][3] == epoch;",
        "arrived &= word[s][3] != 0;",
        "Words of two operations ago are taken for new ones.",
        FEW,
    ),
    Mutant(
        "the first strip stands for all of a chunk",
        "ll/rows.cuh",
        "LaneWords::has_tag() && words[s].in_line) arrived",
        "LaneWords::has_tag() && words[s].in_line && s == 0) arrived",
        "Words of lines that are still under way are taken.",
        MANY,
    ),
    Mutant(
        "the first line stands for all of a strip",
        "ll/rows.cuh",
        "LaneWords::has_tag() && words[s].in_line) arrived",
        "dev::lane_idx() == 7 && words[s].in_line) arrived",
        "Words of lines that are still under way are taken.",
        MANY,
    ),
    Mutant(
        "each lane believes its own line alone",
        "ll/rows.cuh",
        "return dev::all(arrived);",
        "return arrived;",
        "The lanes of a warp part, or take words that are still under way.",
        FEW,
    ),
]

DISPATCH = [
    Mutant(
        "routes of any epoch are taken",
        "ll/arrivals.cuh",
        "dev::ballot(unit.epoch == op.epoch)",
        "dev::ballot(unit.epoch != 0)",
        "Routes of two operations ago are taken for new ones.",
        MANY,
    ),
    Mutant(
        "one route stands for all of a token",
        "ll/arrivals.cuh",
        "const bool has_routes = (has_route & needed) == needed;",
        "const bool has_routes = true;",
        "Routes that are still under way are taken.",
        MANY_HITS,
    ),
    Mutant(
        "a token's first route is not awaited",
        "ll/arrivals.cuh",
        "    if (!(has_route & 1)) return false;\n",
        "",
        "How many hits a token has is taken from what was there before.",
        MANY,
    ),
    Mutant(
        "routes after the 32nd are not awaited",
        "ll/arrivals.cuh",
        "op.wait_for_unit({Wait::token_routes, source, token}, op.route(rank, source, token, hit), unit);",
        "(unit = dev::ld_unit(op.route(rank, source, token, hit)), true);",
        "Routes that are still under way are taken.",
        MANY_HITS,
    ),
    Mutant(
        "rows are not awaited",
        "ll/arrivals.cuh",
        "return has_routes && (has_row || arrived.num_hits == 0);",
        "return has_routes;",
        "Rows are taken that are still under way.",
        FEW,
    ),
    Mutant(
        "routes are read without meeting the warp",
        "ll/arrivals.cuh",
        "arrived.ok = dev::all(arrived.ok);\n  dev::sync_warp();",
        "arrived.ok = dev::all(arrived.ok);",
        "Lanes read routes that other lanes have not written yet.",
        RANK_MAJOR,
    ),
    Mutant(
        "counts are added up before all have been read",
        "ll/arrivals.cuh",
        "&table.has_all(), 0u);\n  team.sync(kReceiversBarrier);",
        "&table.has_all(), 0u);",
        "Rows of two sources get the same place.",
        FEW,
    ),
    Mutant(
        "the table is used before it is complete",
        "ll/arrivals.cuh",
        "      *table.first_row(source, expert) = rows;\n    }\n  }\n  team.sync(kReceiversBarrier);",
        "      *table.first_row(source, expert) = rows;\n    }\n  }",
        "Rows of two sources get the same place.",
        FEW,
    ),
    Mutant(
        "warps take items without an atomic",
        "ll/operation.cuh",
        "taken = dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(num_taken, 1u);",
        "taken = (*num_taken)++;",
        "Two warps take the same item.",
        FEW,
    ),
    Mutant(
        "pushing warps do not wait for the table",
        "ll/dispatch.cuh",
        "dev::bar_sync(kTableBarrier, dev::num_threads());",
        "dev::bar_arrive(kTableBarrier, dev::num_threads());",
        "They look places up that are not known yet.",
        FEW,
    ),
    Mutant(
        "places are read without meeting the warp",
        "ll/dispatch.cuh",
        "expert);\n  }\n  dev::sync_warp();",
        "expert);\n  }",
        "Lanes read row numbers that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "routes are reused without meeting the warp",
        "ll/dispatch.cuh",
        "    dev::sync_warp();  // the routes are about to be reused\n",
        "",
        "A lane overwrites routes that others still read.",
        MANY,
    ),
]

COMBINE = [
    Mutant(
        "weights are sent as ordinary stores",
        "ll/combine.cuh",
        "dev::st_unit(op.route(peer, group.rank, token, first / 3), unit);",
        "dev::st(op.route(peer, group.rank, token, first / 3), unit);",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "weights are not awaited",
        "ll/combine.cuh",
        "ok &= op.wait_for_unit({Wait::route_weights, item.home, item.token},\n"
        "                           op.route(op.group.rank, item.home, item.token, k / 3), unit);",
        "unit = dev::ld_unit(op.route(op.group.rank, item.home, item.token, k / 3));",
        "Rows are added with the weights of two operations ago.",
        FEW,
    ),
    Mutant(
        "weights are read without meeting the warp",
        "ll/combine.cuh",
        "num_topk + k);\n    }\n    dev::sync_warp();",
        "num_topk + k);\n    }",
        "Lanes send weights that other lanes have not listed yet.",
        FEW,
    ),
    Mutant(
        "weights are replaced without meeting the warp",
        "ll/combine.cuh",
        "    dev::sync_warp();  // the row is about to be replaced\n",
        "",
        "Lanes send weights of the next token.",
        FEW_BLOCKS,
    ),
    Mutant(
        "arrived weights are read without meeting the warp",
        "ll/combine.cuh",
        "float_from_bits(bits);\n  }\n  dev::sync_warp();",
        "float_from_bits(bits);\n  }",
        "Lanes add with weights that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "lists of local rows are read without meeting the warp",
        "ll/combine.cuh",
        "  }\n  dev::sync_warp();\n  return item.token",
        "  }\n  return item.token",
        "Lanes read entries that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "lists of local rows are replaced without meeting the warp",
        "ll/combine.cuh",
        "num_tokens_of(item.home);\n  dev::sync_warp();  // the addends are about to be replaced",
        "num_tokens_of(item.home);",
        "A lane overwrites the list that others still read.",
        FEW,
    ),
    Mutant(
        "lists of ranks' rows are read without meeting the warp",
        "ll/combine.cuh",
        "  dev::sync_warp();\n  return num_addends;",
        "  return num_addends;",
        "Lanes read entries that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "lists of ranks' rows are replaced without meeting the warp",
        "ll/combine.cuh",
        "num_addends = 0;\n  dev::sync_warp();  // the addends are about to be replaced",
        "num_addends = 0;",
        "A lane overwrites the list that others still read.",
        FEW_BLOCKS,
    ),
    Mutant(
        "one rank's row stands for all",
        "ll/combine.cuh",
        "      arrived = false;\n",
        "      arrived = r + 1 < count;\n",
        "Rows are added that are still under way.",
        FEW,
    ),
]

FAILURES = [
    Mutant(
        "waits never end",
        "ll/operation.cuh",
        "dev::clock_ns() - start > group.timeout_ns",
        "false",
        "A silent rank makes the others hang.",
        ("silent-expert",),
    ),
    Mutant(
        "lanes run out of time each for itself",
        "ll/operation.cuh",
        "if (agreed(dev::clock_ns() - start > group.timeout_ns)) {",
        "if (dev::clock_ns() - start > group.timeout_ns) {",
        "Lanes go on to wait for those that have left.",
        IMPATIENT,
    ),
    Mutant(
        "lanes give up each for itself",
        "ll/operation.cuh",
        "if (agreed(has_failed(group))) return false;",
        "if (has_failed(group)) return false;",
        "Lanes go on to wait for those that have left.",
        IMPATIENT,
    ),
    Mutant(
        "operations begin after one that has failed",
        "ll/routing.cuh",
        "&& !dev::any(failed);",
        ";",
        "Combine believes what a dispatch that failed should have remembered.",
        SILENT_SOURCE,
    ),
    Mutant(
        "one lane answers for all peers",
        "ll/operation.cuh",
        "  return dev::all(ok);\n}\n\n// The last block",
        "  return ok;\n}\n\n// The last block",
        "The banks of a rank that is silent are overwritten.",
        SILENT_RECEIVER,
    ),
    Mutant(
        "blocks go on without a peer",
        "ll/routing.cuh",
        "return ready[0] != 0;",
        "return true;",
        "The banks of a rank that is silent are overwritten.",
        SILENT_RECEIVER,
    ),
    Mutant(
        "lanes without the weights go on",
        "ll/combine.cuh",
        "  dev::sync_warp();\n  return dev::all(ok);",
        "  dev::sync_warp();\n  return ok;",
        "The lanes of a warp part.",
        ("silent-home",),
    ),
    Mutant(
        "whose failure is the first is asked without an atomic",
        "ll/operation.cuh",
        "dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->failed, 1u) != 0",
        "group.progress->failed++ != 0",
        "Two warps write the record at a time.",
        SILENT_SOURCE,
    ),
    Mutant(
        "that a source is missing is not in the table",
        "ll/arrivals.cuh",
        "if (!read_counts(op, table, team)) dev::st_relaxed<dev::Scope::block>(&table.has_all(), 0u);",
        "read_counts(op, table, team);",
        "Rows are put at places that nobody has told.",
        SILENT_SOURCE,
    ),
    Mutant(
        "an incomplete table is used",
        "ll/dispatch.cuh",
        "if (table.has_all()) {",
        "if (true) {",
        "Rows are put at places that nobody has told.",
        SILENT_SOURCE,
    ),
]

MUTANTS = [*OPERATION, *ROUTING, *ROWS, *DISPATCH, *COMBINE, *FAILURES]
