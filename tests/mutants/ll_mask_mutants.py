# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in what the Low-Latency kernels do to go on without ranks that do not answer."""

from __future__ import annotations

from mutant import Mutant

DEAD = ("dead",)
BEFORE_COMBINE = ("dead-before-combine",)
SUMS = ("dead-before-combine-rank-major",)
QUIET = ("quiet",)
QUIET_RANK_MAJOR = ("quiet-rank-major",)
BANK = ("bank-of-the-dead",)
HASTY = ("hasty",)
COMES_BACK = ("comes-back",)
COMBINE = "combine"

PATIENCE = [
    Mutant(
        "who waits shows no sign of life",
        "common/patience.cuh",
        "      life.show(now);\n",
        "",
        "Those that it keeps waiting take it for dead.",
        ("one-after-the-other",),
        COMBINE,
    ),
    Mutant(
        "signs of life are not looked at",
        "common/patience.cuh",
        "num_renewals == Life::kRenewals || latest == sign",
        "true",
        "A rank that waits itself is taken for dead.",
        ("one-after-the-other",),
        COMBINE,
    ),
    Mutant(
        "a sign of life is shown as an ordinary store",
        "common/patience.cuh",
        "dev::st_relaxed<dev::Scope::system>(place(rank, group.rank), static_cast<uint32_t>(now));",
        "dev::st(place(rank, group.rank), static_cast<uint32_t>(now));",
        "Nothing says when, or whether, others see it.",
        BEFORE_COMBINE,
        COMBINE,
    ),
    Mutant(
        "who is lost is not masked",
        "common/patience.cuh",
        "(group.mask.active + awaited.peer, 0u) == 0) return;",
        "(group.mask.active + awaited.peer, 1u) == 0) return;",
        "Each wait for it lasts as long as the first.",
        SUMS,
        COMBINE,
    ),
    Mutant(
        "a loss is not reported",
        "common/patience.cuh",
        "&group.progress->has_losses, 1u) != 0) return;",
        "&group.progress->has_losses, 1u) == 0) return;",
        "The host does not know.",
        SUMS,
        COMBINE,
    ),
    Mutant(
        "who is masked is waited for",
        "common/patience.cuh",
        "agreed(has_failed(group) || is_masked(group, awaited.peer))",
        "agreed(has_failed(group))",
        "Whoever finds work of a lost rank waits for it again.",
        BEFORE_COMBINE,
        COMBINE,
    ),
]

COUNTS = [
    Mutant(
        "each block decides for itself whose tokens there are",
        "ll/lost_ranks.cuh",
        "if (before == absent || before == present) return before == present;",
        "if (before == absent || before == present) return is_complete;",
        "They put rows into different places.",
        HASTY,
    ),
    Mutant(
        "a block that has seen all counts does not hear of the others",
        "ll/arrivals.cuh",
        "if (!is_complete || !is_present) take_all(",
        "if (!is_complete) take_all(",
        "It counts tokens that the others do not.",
        HASTY,
    ),
    Mutant(
        "verdicts do not say of which operation they are",
        "ll/lost_ranks.cuh",
        "return epoch << 1 | is_present;",
        "return 2 | is_present;",
        "Who took part two operations ago is believed to take part, with the counts of then.",
        DEAD,
    ),
    Mutant(
        "a block does not wait for its own warps' counts",
        "ll/arrivals.cuh",
        "  team.sync(kReceiversBarrier);\n  for (uint32_t i = team.thread_idx(); i < num_sources; ",
        "  for (uint32_t i = team.thread_idx(); i < num_sources; ",
        "It settles what others still read.",
        DEAD,
    ),
    Mutant(
        "that counts are missing is noted as ordinary data",
        "ll/arrivals.cuh",
        "dev::st_relaxed<dev::Scope::block>(&table.is_incomplete(source), 1u);",
        "table.is_incomplete(source) = 1;",
        "Several threads write it at a time.",
        DEAD,
    ),
    Mutant(
        "who waits for counts in vain gives up",
        "ll/arrivals.cuh",
        "ok = op.goes_on();",
        "ok = false;",
        "The operation is not received.",
        DEAD,
    ),
]

ROWS = [
    Mutant(
        "nobody looks who takes part",
        "ll/operation.cuh",
        "if constexpr (has_masks(RemoteRanks::kPeers)) note_active_ranks(args.group);",
        "",
        "What an earlier block has left is taken for the mask.",
        QUIET_RANK_MAJOR,
        COMBINE,
    ),
    Mutant(
        "an operation ends where a bank is waited for in vain",
        "ll/operation.cuh",
        "if (has_masks(kPeers) && !dev::all(ok)) {",
        "if (false) {",
        "The others get nothing.",
        BANK,
        COMBINE,
    ),
    Mutant(
        "routes go to masked ranks",
        "ll/routes.cuh",
        "  if (!is_active(op, peer)) return;\n",
        "",
        "Links that may be broken are used, and memory that nobody looks after.",
        QUIET,
    ),
    Mutant(
        "rows go to masked ranks",
        "ll/dispatch.cuh",
        "number & 1) || !is_active(op, peer)) continue;",
        "number & 1)) continue;",
        "Links that may be broken are used, and memory that nobody looks after.",
        QUIET_RANK_MAJOR,
    ),
    Mutant(
        "rows of others are lost with those of a masked home",
        "ll/combine.cuh",
        "        if (!op.warp_goes_on()) return;\n        break;  // its home is masked\n",
        "        return;\n",
        "They wait for the rows, and mask this rank.",
        BEFORE_COMBINE,
    ),
    Mutant(
        "all rows count as lost where one is",
        "ll/collect.cuh",
        "if (r < count && addends[r].k == awaited.peer) lost",
        "if (r < count) lost",
        "Other ranks' rows are missing from the sum.",
        SUMS,
    ),
    Mutant(
        "what lies in the place of a lost row is added",
        "ll/collect.cuh",
        "  if (lost != 0) clear_rows(lost, rows);\n",
        "",
        "It is another operation's.",
        SUMS,
    ),
]

CLEANING = [
    Mutant(
        "all go on from an old number",
        "common/clean.cuh",
        "return (greatest / kStride + 2) * kStride;",
        "return greatest / kStride * kStride;",
        "What lies in windows looks new.",
        COMES_BACK,
    ),
    Mutant(
        "a cleaning makes nobody active",
        "common/clean.cuh",
        "  unmask_all(group);\n",
        "",
        "Who comes back stays masked.",
        COMES_BACK,
    ),
    Mutant(
        "all cleanings begin with the same word",
        "common/clean.cuh",
        "meetings.say(kStarted, rank, farthest.epoch + 1);",
        "meetings.say(kStarted, rank, 1);",
        "At the second one, nobody is heard.",
        COMES_BACK,
    ),
    Mutant(
        "ranks go on with their own numbers",
        "common/clean.cuh",
        "  dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, agreed);\n",
        "",
        "They wait for operations that others do not begin.",
        COMES_BACK,
    ),
]

MUTANTS = [*PATIENCE, *COUNTS, *ROWS, *CLEANING]
