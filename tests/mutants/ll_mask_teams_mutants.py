# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in what Low-Latency kernels do to go on without ranks of other LSA teams."""

from __future__ import annotations

from ll_mask_mutants import BANK, BEFORE_COMBINE, COMBINE, COMES_BACK, DEAD, HASTY, QUIET, QUIET_RANK_MAJOR
from mutant import Mutant

LOST_NODE = ("lost-node",)
COMES_LATER = ("comes-later",)

SIGNALS = [
    Mutant(
        "what a peer has been told is not noted",
        "common/remote_waits.cuh",
        "    dev::st(told, value);\n",
        "",
        "It is told all of it once more, and believes in operations that are still to come.",
        DEAD,
    ),
    Mutant(
        "a signal says that there is one operation more",
        "common/remote_waits.cuh",
        "return value - before;",
        "return 1;",
        "Who has been left out for some is never told of them.",
        COMES_BACK,
    ),
    Mutant(
        "who waits shows other teams no sign of life",
        "common/remote_waits.cuh",
        "      if (is_in_team(rank) || is_masked(group, rank)) continue;\n",
        "      if (true) continue;\n",
        "Those that it keeps waiting take it for dead.",
        BEFORE_COMBINE,
        COMBINE,
    ),
    Mutant(
        "signs of life are shown once",
        "common/remote_waits.cuh",
        "if (last != 0 && now - last < group.timeout_ns / 4) return;",
        "if (last != 0) return;",
        "Those that it keeps waiting the next time take it for dead.",
        ("one-after-the-other",),
        COMBINE,
    ),
    Mutant(
        "rows are said to be there, whoever lacks some",
        "ll/remote.cuh",
        "if (!is_masked(group, peer)) signals()",
        "signals()",
        "Who is masked believes to have them.",
        QUIET_RANK_MAJOR,
    ),
]

SENDING = [
    Mutant(
        "the outbox is written again before the network has left it",
        "ll/operation.cuh",
        "  if (sends) remote.flush_for_the_lost();\n",
        "",
        "Nobody who is masked says that it has got what was put there.",
        DEAD,
    ),
    Mutant(
        "one context is flushed",
        "ll/remote.cuh",
        "c < network.comm.num_contexts; c += 32) {\n      done &=",
        "c < 1; c += 32) {\n      done &=",
        "Rows of the others may still be read.",
        DEAD,
    ),
    Mutant(
        "what the network keeps is waited for each time",
        "ll/remote.cuh",
        "    if (dev::lane_idx() == 0) dev::st_release<dev::Scope::gpu>(in_vain, num_lost);\n",
        "",
        "Each operation takes as long as a rank has patience.",
        LOST_NODE,
    ),
    Mutant(
        "what the network keeps is waited for without end",
        "ll/remote.cuh",
        "      done &= gin(c).flush_within(group.timeout_ns / 4);\n",
        "      gin(c).flush();\n",
        "It never leaves.",
        LOST_NODE,
    ),
    Mutant(
        "masked ranks are greeted",
        "ll/remote.cuh",
        "if (is_active<kPeers>(rank(i))) signals().tell(",
        "signals().tell(",
        "Links that may be broken are used.",
        QUIET_RANK_MAJOR,
    ),
    Mutant(
        "heads go to masked ranks",
        "ll/dispatch_remote.cuh",
        "  if (!is_active(op, peer)) return;\n",
        "",
        "Links that may be broken are used.",
        QUIET,
    ),
    Mutant(
        "rows go to masked ranks through the network",
        "ll/dispatch_remote.cuh",
        "ranks.bits_from(base) & active_bits<kPeers>(base)",
        "ranks.bits_from(base)",
        "Links that may be broken are used.",
        QUIET_RANK_MAJOR,
    ),
    Mutant(
        "weights go to masked ranks",
        "ll/combine_remote.cuh",
        "    if (!is_active(op, remote.rank(i))) continue;\n",
        "",
        "Links that may be broken are used.",
        QUIET,
    ),
    Mutant(
        "masked ranks are told that there are no weights",
        "ll/combine_remote.cuh",
        "if (is_active(op, remote.rank(i))) remote.put_head(",
        "remote.put_head(",
        "Links that may be broken are used.",
        QUIET_RANK_MAJOR,
    ),
    Mutant(
        "sums of others are lost with those of a masked home",
        "ll/combine_remote.cuh",
        "        is_whole = false;  // its home is masked\n        break;\n",
        "        return false;\n",
        "They wait for the last of them, and mask this rank.",
        BEFORE_COMBINE,
    ),
    Mutant(
        "an operation ends where a remote bank is waited for in vain",
        "ll/remote.cuh",
        "if (has_masks(kPeers) && !dev::all(ok)) {",
        "if (false) {",
        "The others get nothing.",
        BANK,
        COMBINE,
    ),
]

COUNTS = [
    Mutant(
        "each block decides for itself whose heads there are",
        "ll/lost_ranks.cuh",
        "if (before == absent || before == present) return before == present;",
        "if (before == absent || before == present) return is_complete;",
        "They put rows into different places.",
        HASTY,
    ),
    Mutant(
        "a head that another block has seen is read at once",
        "ll/dispatch_remote.cuh",
        "    if (!remote.has_head(op.epoch, source)) return false;\n",
        "",
        "It is this operation's for those alone that have seen its signal.",
        HASTY,
    ),
    Mutant(
        "who waits for rows in vain gives up",
        "ll/dispatch_remote.cuh",
        "      if (!op.warp_goes_on()) return;\n",
        "      return;\n",
        "Other ranks' rows are not received.",
        ("half-dead",),
    ),
]

CLEANING = [
    Mutant(
        "the first word is weak",
        "common/clean_remote.cuh",
        "signals().tell_strongly(context, Signals::Numbers::kMeeting, rank, number);",
        "signals().tell(context, Signals::Numbers::kMeeting, rank, number);",
        "What was put before may still be on its way.",
        COMES_BACK,
    ),
    Mutant(
        "the first word is heard in one context",
        "common/clean_remote.cuh",
        "context < (phase == 0 ? network.comm.num_contexts : 1)",
        "context < 1",
        "What was put before in others may still be on its way.",
        COMES_BACK,
    ),
    Mutant(
        "words of earlier cleanings are believed",
        "common/clean.cuh",
        "          listen(rank);\n",
        "",
        "Who was not there then goes on elsewhere.",
        COMES_LATER,
    ),
    Mutant(
        "nobody says again where to go on",
        "common/clean.cuh",
        "if (!dev::any(farthest.lead() != lead)) return agreed;",
        "return agreed;",
        "Who has heard of an earlier cleaning goes on elsewhere.",
        COMES_LATER,
    ),
]

MUTANTS = [*SIGNALS, *SENDING, *COUNTS, *CLEANING]
