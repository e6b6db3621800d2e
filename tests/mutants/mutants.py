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


CHUNKS = ("expert-major-chunks", "rank-major-chunks")
UNITS = ("expert-major-units",)
ONE_WAY = ("one-way",)  # otherwise the peers' rows tell that their banks are free

OPERATION = [
    Mutant(
        "hello is not released",
        "ll/operation.cuh",
        "dev::st_release<dev::Scope::system>(group.window",
        "dev::st_relaxed<dev::Scope::system>(group.window",
        "A peer may overwrite a bank while this rank still reads it.",
        ONE_WAY,
    ),
    Mutant(
        "hello is released to this GPU only",
        "ll/operation.cuh",
        "dev::st_release<dev::Scope::system>(group.window",
        "dev::st_release<dev::Scope::gpu>(group.window",
        "Peers are outside the scope.",
        UNITS,
    ),
    Mutant(
        "flags and hello are not acquired at the first poll",
        "ll/operation.cuh",
        "if (matches(dev::ld_acquire<dev::Scope::system>(flag))) return true;",
        "if (matches(dev::ld_relaxed<dev::Scope::system>(flag))) return true;",
        "Rows may be read before they have arrived.",
        CHUNKS,
    ),
    Mutant(
        "flags and hello are not acquired at later polls",
        "ll/operation.cuh",
        "(flag)) && matches(dev::ld_acquire<dev::Scope::system>(flag));",
        "(flag));",
        "Rows may be read before they have arrived.",
        CHUNKS,
    ),
    Mutant(
        "banks do not alternate",
        "ll/operation.cuh",
        "bank(op_epoch % LlLayout::kNumBanks)",
        "bank(0)",
        "Rows of the operation before are overwritten while they are read.",
        CHUNKS,
    ),
    Mutant(
        "output windows are not awaited",
        "ll/operation.cuh",
        "(!windows || static_cast<int32_t>(started - op.epoch) >= 0)",
        "true",
        "A peer overwrites the output of the dispatch before, while the caller's stream still uses it.",
        ("zero-copy",),
    ),
    Mutant(
        "epochs stand still",
        "ll/operation.cuh",
        "dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1",
        "dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch)",
        "What an operation finds in fresh memory looks as if it had arrived.",
        UNITS,
    ),
    Mutant(
        "a unit of any epoch is taken",
        "ll/operation.cuh",
        "return unit.epoch == epoch;",
        "return unit.epoch != 0;",
        "Counts of two operations ago are taken for new ones.",
        UNITS,
    ),
]

ROUTING = [
    Mutant(
        "peers are not awaited",
        "ll/routing.cuh",
        "      ok &= await_peers(op, windows);\n",
        "",
        "A bank may be overwritten while it is read.",
        ONE_WAY,
    ),
    Mutant(
        "sending begins without the block's barrier",
        "ll/routing.cuh",
        "dev::sync_block();\n  return ready[0] != 0;",
        "return ready[0] != 0;",
        "Warps send to banks that only another warp knows to be free, and read sets that are being filled.",
        UNITS,
    ),
    Mutant(
        "hits are read before all are collected",
        "ll/routes.cuh",
        "  });\n  dev::sync_block();\n}",
        "  });\n}",
        "Routes miss hits.",
        UNITS,
    ),
    Mutant(
        "hits are collected before the last ones are cleared",
        "ll/routes.cuh",
        "scratch.hits[i] = 0;\n  dev::sync_block();",
        "scratch.hits[i] = 0;",
        "Hits that were set are cleared again.",
        UNITS,
    ),
    Mutant(
        "routes are read without meeting the warp",
        "ll/routes.cuh",
        "received.ok = dev::all(received.ok);\n  dev::sync_warp();",
        "received.ok = dev::all(received.ok);",
        "Lanes read routes that other lanes have not written yet.",
        UNITS,
    ),
    Mutant(
        "routes of any epoch are taken",
        "ll/routes.cuh",
        "dev::ballot(unit.epoch == op.epoch)",
        "dev::ballot(unit.epoch != 0)",
        "Routes of two operations ago are taken for new ones.",
        UNITS,
    ),
    Mutant(
        "routes are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(units + scratch.hit_of(token, k), route.encode(op.epoch));",
        "dev::st(units + scratch.hit_of(token, k), route.encode(op.epoch));",
        "The tag may be seen before the words that it vouches for.",
        UNITS,
    ),
]

ROWS = [
    Mutant(
        "a chunk is read without meeting the warp",
        "ll/rows.cuh",
        "ok = dev::all(ok);\n  dev::sync_warp();",
        "ok = dev::all(ok);",
        "Only lane 0 knows that the chunk has arrived.",
        CHUNKS,
    ),
    Mutant(
        "a flag of any epoch is taken",
        "ll/rows.cuh",
        "return value == op.epoch;",
        "return value != 0;",
        "A chunk of two operations ago is taken for the new one.",
        CHUNKS,
    ),
    Mutant(
        "row units are sent as ordinary stores",
        "ll/rows.cuh",
        "dev::st_unit(row + words.at(i), unit);",
        "dev::st(row + words.at(i), unit);",
        "The tag may be seen before the words that it vouches for.",
        UNITS,
    ),
    Mutant(
        "one arrived unit stands for all of a lane",
        "ll/rows.cuh",
        "arrived &= unit[i].epoch == op.epoch;",
        "arrived &= i != 0 || unit[i].epoch == op.epoch;",
        "Words of units that are still under way are taken.",
        UNITS,
    ),
]

PUSH = [
    Mutant(
        "row flags are not released",
        "ll/push.cuh",
        "dev::st_release<dev::Scope::system>(last_flag_",
        "dev::st_relaxed<dev::Scope::system>(last_flag_",
        "The flag may be seen before the row.",
        CHUNKS,
    ),
    Mutant(
        "row flags are released to this GPU only",
        "ll/push.cuh",
        "dev::st_release<dev::Scope::system>(last_flag_",
        "dev::st_release<dev::Scope::gpu>(last_flag_",
        "Peers are outside the scope.",
        CHUNKS,
    ),
    Mutant(
        "flags are raised when rows have only been read",
        "ll/push.cuh",
        "dev::bulk_wait<1>();",
        "dev::bulk_wait_read<1>();",
        "The flag may be seen before the row.",
        CHUNKS,
    ),
    Mutant(
        "the last flag is raised when its row has only been read",
        "ll/push.cuh",
        "dev::bulk_wait<0>();",
        "dev::bulk_wait_read<0>();",
        "The flag may be seen before the row.",
        CHUNKS,
    ),
    Mutant(
        "two chunks are on their way when the next is prepared",
        "ll/push.cuh",
        "dev::bulk_wait<1>();",
        "dev::bulk_wait<2>();",
        "The stage of the chunk before last is filled while it is read.",
        CHUNKS,
    ),
    Mutant(
        "there is one stage in place of two",
        "ll/push.cuh",
        "stages_ + n % kPushStages * stage_bytes_",
        "stages_",
        "A chunk is prepared where the last one is still read.",
        CHUNKS,
    ),
]

DISPATCH = [
    Mutant(
        "loads are not awaited",
        "ll/dispatch.cuh",
        "      dev::mbar_wait(&loaded[n % kPushStages], n / kPushStages % 2);\n",
        "",
        "A chunk is stored before it has been loaded.",
        CHUNKS,
    ),
    Mutant(
        "the stages' parity never flips",
        "ll/dispatch.cuh",
        "n / kPushStages % 2",
        "0",
        "From its second use on, a stage counts as loaded at once.",
        CHUNKS,
    ),
    Mutant(
        "mbarriers are not fenced",
        "ll/dispatch.cuh",
        "  dev::fence_mbar_init();\n",
        "",
        "The engine may not see their initialisation.",
        CHUNKS,
    ),
    Mutant(
        "places are read without meeting the warp",
        "ll/dispatch.cuh",
        "dev::sync_warp();\n  return dev::all(ok);",
        "return dev::all(ok);",
        "Lanes read row numbers that other lanes have not written yet.",
        UNITS,
    ),
    Mutant(
        "routes are reused without meeting the warp",
        "ll/dispatch.cuh",
        "    dev::sync_warp();  // the routes are about to be reused\n",
        "",
        "A lane overwrites routes that others still read.",
        UNITS,
    ),
]

COMBINE = [
    Mutant(
        "sums are announced without meeting the warp",
        "ll/combine.cuh",
        "  dev::sync_warp();\n  dev::fence<dev::Scope::system>();",
        "  dev::fence<dev::Scope::system>();",
        "A lane announces sums that others have stored in part.",
        CHUNKS,
    ),
    Mutant(
        "sums are announced without a fence",
        "ll/combine.cuh",
        "  dev::fence<dev::Scope::system>();\n",
        "",
        "A flag may be seen before its sum.",
        CHUNKS,
    ),
    Mutant(
        "sums are fenced for this GPU only",
        "ll/combine.cuh",
        "dev::fence<dev::Scope::system>();",
        "dev::fence<dev::Scope::gpu>();",
        "Home ranks are outside the scope.",
        CHUNKS,
    ),
    Mutant(
        "sums are read without meeting the warp",
        "ll/combine.cuh",
        "ok = dev::all(ok);\n  dev::sync_warp();",
        "ok = dev::all(ok);",
        "Lanes read lists and rows that only other lanes know.",
        CHUNKS,
    ),
    Mutant(
        "lists of rows are reused without meeting the warp",
        "ll/combine.cuh",
        "  dev::sync_warp();  // the addends are about to be reused\n",
        "",
        "A lane overwrites the list that others still read.",
        CHUNKS,
    ),
    Mutant(
        "lists of local rows are read without meeting the warp",
        "ll/combine.cuh",
        "  }\n  dev::sync_warp();\n  return item.token",
        "  }\n  return item.token",
        "Lanes read entries that other lanes have not written yet.",
        UNITS,
    ),
    Mutant(
        "weights are read without meeting the warp",
        "ll/combine.cuh",
        "weights[k] = weight;\n  }\n  dev::sync_warp();",
        "weights[k] = weight;\n  }",
        "Lanes send weights that other lanes have not listed yet.",
        UNITS,
    ),
    Mutant(
        "a sum's flag of any epoch is taken",
        "ll/combine.cuh",
        "return value == op.epoch;",
        "return value != 0;",
        "A sum of two operations ago is taken for the new one.",
        CHUNKS,
    ),
]

MUTANTS = [*OPERATION, *ROUTING, *ROWS, *PUSH, *DISPATCH, *COMBINE]
