# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in how High-Throughput groups do without ranks of several LSA teams."""

from __future__ import annotations

from mutant import Mutant

NODE = ("dead-node",)
NODE_EM = ("dead-node-expert-major",)
RANK = ("dead-rank",)
RANK_EM = ("dead-rank-expert-major",)
BEFORE_DISPATCH = ("dies-before-dispatch",)
BEFORE_COMBINE = ("dies-before-combine",)
GRADIENTS = ("rank-dies-before-combine",)
NO_LISTS = ("no-lists",)
COMES_BACK = ("comes-back",)
DROPS = ("drops",)
DROPS_EM = ("drops-expert-major",)
DROPS_DEAD_RANK = ("drops-dead-rank",)
DIES_WHEN_COUNTED = ("dies-when-counted",)

MUTANTS = [
    Mutant(
        "ranks are waited for instead of those that host their tokens",
        "ht/operation.cuh",
        "return kPeers == Peers::masked_teams ? group.first_rank + rank % group.layout.team_size : rank;",
        "return rank;",
        "Words and counts are looked for in windows that cannot be reached.",
        NODE,
    ),
    Mutant(
        "who gets no counts from a rail peer does not say so",
        "ht/update_remote.cuh",
        "!has_failed(op.group) && settle(op, source, mine, said_of(op, source)) == Verdict::present;",
        "!has_failed(op.group);",
        "The team waits for them.",
        NODE,
    ),
    Mutant(
        "a rail peer says where its rows lie",
        "ht/guest_list.cuh",
        "    if constexpr (has_masks(kPeers)) return scratch.guest_rows[number * list.team_size + place];\n",
        "",
        "It counts tokens that this team does not have.",
        RANK,
    ),
    Mutant(
        "guests' slots begin at the first one",
        "ht/guest_list.cuh",
        "return scratch.guest_slots[zone] + hit % max_tokens;",
        "return hit % max_tokens;",
        "They are others'.",
        NODE_EM,
    ),
    Mutant(
        "guests' hits have the numbers that their team has given them",
        "ht/guest_list.cuh",
        "        if (i > 0 || j == 2) unit.word[j] = slot_of(place, unit.word[j]);\n",
        "",
        "Those are not slots.",
        RANK_EM,
    ),
    Mutant(
        "guests' slots begin where the expert's do",
        "ht/update_remote.cuh",
        "scratch.guest_slots[guests * group.num_local_experts + expert] = before;",
        "scratch.guest_slots[guests * group.num_local_experts + expert] = 0;",
        "They are others'.",
        NODE_EM,
    ),
    Mutant(
        "a rank says which slots its tokens have in another team",
        "ht/rank_counts.cuh",
        "  if constexpr (kPeers != Peers::masked_teams) return true;\n",
        "  if (true) return true;\n",
        "That team adds where they begin once more.",
        NODE_EM,
    ),
    Mutant(
        "nothing is said of rows whose list does not come",
        "ht/guest_list.cuh",
        "    send_record_unit(op, place.rank, place.row, 0, Unit{{rails.peer(number), 0, 0}, 0});\n",
        "",
        "Their ranks lose the one that would have told them.",
        NO_LISTS,
    ),
    Mutant(
        "a host gives up with a guest that does not come",
        "ht/dispatch_remote.cuh",
        "ok = has_come || op.goes_on();",
        "ok = has_come;",
        "Its team waits for the others, and loses it.",
        BEFORE_DISPATCH,
    ),
    Mutant(
        "rows that do not come have no flag",
        "ht/dispatch_remote.cuh",
        "if (has_flags) dev::st_relaxed<dev::Scope::system>(flag_of(args.group, peer, row), op.epoch);",
        "",
        "Their ranks lose the one that would have pushed them.",
        BEFORE_DISPATCH,
    ),
    Mutant(
        "sums that do not come are added",
        "ht/combine_remote.cuh",
        "    lost |= mine;\n",
        "",
        "They are those of an operation before.",
        BEFORE_COMBINE,
    ),
    Mutant(
        "gradients that do not come go home",
        "ht/combine_remote.cuh",
        "      for (uint32_t j = 0; j < dest.hits.count; ++j) put(j, 0);  // who has them is lost\n",
        "",
        "They are those of an operation before.",
        GRADIENTS,
    ),
    Mutant(
        "a hello says that there is one operation more",
        "ht/rails.cuh",
        "signals().tell(kContext, HtSignals::kHello, peer(i), epoch);",
        "gin(kContext).signal(peer(i), dev::weak(dev::signal(signals().numbers().hello(group.rank))));",
        "Who has been left out for some is never told of them.",
        COMES_BACK,
    ),
    Mutant(
        "what is dropped in other teams follows from this team's counts",
        "ht/tallies.cuh",
        "      scratch.total[counter] = tally.all;\n",
        "",
        "They count other ranks.",
        DROPS_DEAD_RANK,
    ),
    Mutant(
        "expert-major, tokens have the numbers in another team that they have among this rank's",
        "ht/tallies.cuh",
        "      scratch.next[counter] += tally.before;\n",
        "      if (counter < args.group.num_ranks) scratch.next[counter] += tally.before;\n",
        "They get the slots of others.",
        DROPS_EM,
    ),
    Mutant(
        "tallies are added to this team's",
        "ht/tallies.cuh",
        "      scratch.next[counter] -= outgoing.row;  // as this team counts\n",
        "",
        "Rows are counted twice.",
        DROPS,
    ),
    Mutant(
        "the rows of other teams begin where this team says",
        "ht/tallies.cuh",
        "      outgoing.row = tally.before;\n",
        "",
        "Their records lie where nobody looks for them.",
        DROPS_DEAD_RANK,
    ),
    Mutant(
        "tallies are used before they have come",
        "ht/update_remote.cuh",
        "        if (comes(op, i, Wait::remote_tallies, HtRemoteLayout::kTallies)) {\n",
        "        if (i < it.size()) {\n",
        "They are those of an update before.",
        DROPS,
    ),
    Mutant(
        "tallies are put before they are written",
        "ht/update_remote.cuh",
        "    dev::sync_block();\n    if (dev::thread_idx() == 0 && ok) it.put(op, i, word, offset, bytes);\n",
        "    if (dev::thread_idx() == 0 && ok) it.put(op, i, word, offset, bytes);\n",
        "Some are those of an update before.",
        DROPS,
    ),
    Mutant(
        "a host looks for all rows of its guests",
        "ht/update_remote.cuh",
        "rows_on(args, scratch, args.group.first_rank + place).thin(rows[place]);",
        ";",
        "It tells of some that are dropped.",
        DROPS,
    ),
    Mutant(
        "a host gives hits slots that have some",
        "ht/guest_list.cuh",
        "    if (has_masks(kPeers) && kExpertMajor && !args.drops) {\n",
        "    if (has_masks(kPeers) && kExpertMajor) {\n",
        "They are others'.",
        DROPS_EM,
    ),
    Mutant(
        "expert-major, slots in other teams begin with the first",
        "ht/zones.cuh",
        "if (is_placed(op, counter) || args.drops) scratch.next",
        "if (is_placed(op, counter)) scratch.next",
        "They are others'.",
        DROPS_EM,
    ),
    Mutant(
        "rows of which nothing is known have a hit",
        "ht/place.cuh",
        "    if (!Operation<kPeers>::kMasks || num_hits > 0) note(row, 0, unit.word[2]);\n",
        "    note(row, 0, unit.word[2]);\n",
        "They count as tokens of the first expert.",
        DIES_WHEN_COUNTED,
    ),
]
