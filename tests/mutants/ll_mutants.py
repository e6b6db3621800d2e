# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the Low-Latency kernels."""

from __future__ import annotations

from mutant import Mutant

FEW = ("expert-major",)
RANK_MAJOR = ("rank-major", "rank-major-many")
MANY = ("expert-major-many", "expert-major")
MANY_HITS = ("many-hits",)
FEW_BLOCKS = ("few-blocks",)
TWO_WARPS = ("two-warps",)
REPEATS = ("repeats",)
IDLE_RECEIVER = ("idle-receiver",)  # otherwise what the peers send tells that their banks are free
SILENT_RECEIVER = ("silent-receiver",)
SILENT_SOURCE = ("silent-source",)
SILENT_SOURCE_RANK_MAJOR = ("silent-source-rank-major",)
BAD_EXPERT = ("bad-expert",)
IMPATIENT = ("impatient",)
IN_FLIGHT = ("in-flight",)
IN_FLIGHT_LATE = ("in-flight-late",)
COUNTS = ("counts",)

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
        "common/operation.cuh",
        "return unit.epoch == epoch;",
        "return unit.epoch != 0;",
        "Counts of two operations ago are taken for new ones.",
        FEW,
    ),
    Mutant(
        "a bank is taken to be free one operation too early",
        "ll/operation.cuh",
        "finished_by(op, peer) + LlLayout::kNumBanks - op.epoch",
        "finished_by(op, peer) + LlLayout::kNumBanks + 1 - op.epoch",
        "A peer overwrites a bank while this rank still reads it.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "an operation counts when the first block is done",
        "common/operation.cuh",
        "if (before + 1 != dev::num_blocks()) return false;",
        "if (before != 0) return false;",
        "Blocks that start late take the next operation's number.",
        ("idle-blocks",),
    ),
    Mutant(
        "kernels that run at the same time count their blocks together",
        "ll/operation.cuh",
        "&progress->blocks_done[op.bank]",
        "&progress->blocks_done[0]",
        "Neither knows its last block.",
        (*IN_FLIGHT, "in-flight-again"),
    ),
    Mutant(
        "blocks are counted without an atomic",
        "common/operation.cuh",
        "dev::atomic_add<kOrder, dev::Scope::gpu>(blocks_done, 1u)",
        "(*blocks_done)++",
        "Two blocks see the same count, and none is the last.",
        FEW,
    ),
]

BEGIN = [
    Mutant(
        "peers are not awaited",
        "ll/operation.cuh",
        "  const bool may_write =\n      !sends || dev::all(free_until == op.epoch) || "
        "(await_peers(op) && remote.await_peers(op.epoch));",
        "  const bool may_write = true;",
        "A bank may be overwritten while it is read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "banks that were free for an earlier operation are taken to be free",
        "ll/operation.cuh",
        "dev::all(free_until == op.epoch)",
        "dev::all(free_until != 0)",
        "A bank may be overwritten while it is read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "banks are noted as free without a look",
        "ll/operation.cuh",
        "if (finished && dev::lane_idx() == 0)",
        "if (dev::lane_idx() == 0)",
        "The next operation overwrites a bank while it is read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "banks are noted as free one operation too early",
        "ll/operation.cuh",
        "finished_by(op, peer) + 1 - op.epoch",
        "finished_by(op, peer) + 2 - op.epoch",
        "The next operation overwrites a bank while it is read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "banks are noted as free if one lane has seen it",
        "ll/operation.cuh",
        "  finished = dev::all(finished);\n",
        "",
        "Lane 0 has looked at rank 0 only.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "a rank says that it has finished what it begins",
        "ll/operation.cuh",
        "op.epoch - 1 - args.num_pending;",
        "op.epoch - args.num_pending;",
        "A peer overwrites a bank while this rank still reads it.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "a rank says that it has finished what it may still receive",
        "ll/operation.cuh",
        "op.epoch - 1 - args.num_pending;",
        "op.epoch - 1;",
        "A peer overwrites a bank while this rank still reads it.",
        IN_FLIGHT_LATE,
    ),
    Mutant(
        "what a rank has finished is told as an ordinary store",
        "ll/operation.cuh",
        "dev::st_relaxed<dev::Scope::system>(hello, finished);",
        "dev::st(hello, finished);",
        "Nothing says when, or whether, a poll sees it.",
        FEW,
    ),
    Mutant(
        "what a rank has finished is told to its own GPU",
        "ll/operation.cuh",
        "dev::st_relaxed<dev::Scope::system>(hello, finished);",
        "dev::st_relaxed<dev::Scope::gpu>(hello, finished);",
        "Nothing says when, or whether, a poll of another GPU sees it.",
        FEW,
    ),
    Mutant(
        "what a peer has finished is read as its own GPU's word",
        "ll/operation.cuh",
        "dev::ld_relaxed<dev::Scope::system>(op.hello(op.group.rank",
        "dev::ld_relaxed<dev::Scope::gpu>(op.hello(op.group.rank",
        "The poll may never see the word.",
        FEW,
    ),
    Mutant(
        "followers do not wait for the leader",
        "ll/operation.cuh",
        "dev::bar_sync(kBeginBarrier, dev::num_threads());",
        "dev::bar_arrive(kBeginBarrier, dev::num_threads());",
        "They send to banks that may not be free, and hits that others collect.",
        FEW,
    ),
    Mutant(
        "the leader arrives before it has left word",
        "ll/operation.cuh",
        "  if (dev::lane_idx() == 0) shared_start[0] = start;\n"
        "  dev::sync_warp();  // what one lane of the leader got ready is for the others too\n"
        "  dev::bar_arrive(kBeginBarrier, dev::num_threads());\n",
        "  dev::sync_warp();\n"
        "  dev::bar_arrive(kBeginBarrier, dev::num_threads());\n"
        "  if (dev::lane_idx() == 0) shared_start[0] = start;\n",
        "Followers go on with what an earlier block has left.",
        FEW,
    ),
    Mutant(
        "the leader's lanes do not meet",
        "ll/operation.cuh",
        "  dev::sync_warp();  // what one lane of the leader got ready is for the others too\n",
        "",
        "They change what another lane has got ready, as far as anything orders the two.",
        SILENT_SOURCE,
    ),
    Mutant(
        "a follower gets dispatch's queue ready",
        "ll/dispatch.cuh",
        "if (leads() && dev::lane_idx() == 0) table.clear();",
        "if (dev::thread_idx() == 0) table.clear();",
        "The leader, which waits for no follower, finds an old queue.",
        TWO_WARPS,
    ),
    Mutant(
        "a follower gets combine's queues ready",
        "ll/combine.cuh",
        "if (leads() && dev::lane_idx() == 0) {",
        "if (dev::thread_idx() == 0) {",
        "The leader, which waits for no follower, finds old queues.",
        FEW,
    ),
    Mutant(
        "an operation's number is read as ordinary data",
        "ll/operation.cuh",
        "dev::ld_relaxed<dev::Scope::gpu>(&group.progress->epoch) + 1",
        "group.progress->epoch + 1",
        "The last block may advance it meanwhile, as far as anything orders the two.",
        FEW,
    ),
    Mutant(
        "an operation counts by an ordinary store",
        "ll/operation.cuh",
        "dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, op.epoch);",
        "progress->epoch = op.epoch;",
        "Other blocks have read it with nothing that orders the two.",
        FEW,
    ),
]

ROUTES = [
    Mutant(
        "hits are collected before the last ones are cleared",
        "ll/routes.cuh",
        "words[i] = 0;\n    team.sync(kRoutesBarrier);",
        "words[i] = 0;",
        "Hits that were noted are cleared again.",
        FEW,
    ),
    Mutant(
        "tokens are counted before all hits are known",
        "ll/routes.cuh",
        "scratch.place_hits[place / 32] = hits;\n  });\n  team.sync(kRoutesBarrier);\n  const bool has_other",
        "scratch.place_hits[place / 32] = hits;\n  });\n  const bool has_other",
        "Routes miss hits.",
        FEW,
    ),
    Mutant(
        "tokens are counted before repeated experts are dropped",
        "ll/routes.cuh",
        "drop_repeats(args, scratch, team);\n    team.sync(kRoutesBarrier);",
        "drop_repeats(args, scratch, team);",
        "A word of hits is read while it is replaced.",
        REPEATS,
    ),
    Mutant(
        "repeated experts are dropped without meeting the warp",
        "ll/routes.cuh",
        "        dev::sync_warp();  // the word is about to be replaced\n",
        "",
        "A lane reads the hits that are left instead of those that were found.",
        REPEATS,
    ),
    Mutant(
        "repeated experts are not dropped",
        "ll/routes.cuh",
        "if (kLayout == Layout::expert_major && (scratch",
        "if (false && (scratch",
        "A token comes twice to an expert.",
        REPEATS,
    ),
    Mutant(
        "that an expert is repeated is noted as ordinary data",
        "ll/routes.cuh",
        "dev::st_relaxed<dev::Scope::block>(&scratch.counts->has_repeats, 1u);",
        "scratch.counts->has_repeats = 1;",
        "Several lanes write at a time.",
        REPEATS,
    ),
    Mutant(
        "hits are cleared for the next peer while they are read",
        "ll/routes.cuh",
        "    followers().sync(kRoutesBarrier);\n    task.collect",
        "    task.collect",
        "Routes miss hits.",
        FEW_BLOCKS,
    ),
    Mutant(
        "the next peer's hits are read before all are collected",
        "ll/routes.cuh",
        "task.collect(args, scratch);\n    followers().sync(kRoutesBarrier);",
        "task.collect(args, scratch);",
        "Routes miss hits.",
        FEW_BLOCKS,
    ),
    Mutant(
        "tokens are put into sets without an atomic",
        "common/token_bits.cuh",
        "    return !(dev::atomic_or<dev::Order::relaxed, dev::Scope::block>(word + token / 32, bit) & bit);",
        "    const bool is_new = !(word[token / 32] & bit);\n"
        "    word[token / 32] |= bit;\n"
        "    return is_new;",
        "Tokens of other lanes are lost.",
        FEW,
    ),
    Mutant(
        "an expert's rows are counted without an atomic",
        "ll/routes.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::block>("
        "scratch.rows_of_expert(expert - pass.begin), 1u);",
        "++*scratch.rows_of_expert(expert - pass.begin);",
        "Rows of other lanes are lost.",
        FEW,
    ),
    Mutant(
        "a peer's rows are counted without an atomic",
        "ll/routes.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::block>("
        "&scratch.counts->num_rows, dev::popc(bits));",
        "scratch.counts->num_rows += dev::popc(bits);",
        "Rows of other warps are lost.",
        MANY,
    ),
    Mutant(
        "each lane notes its own hit",
        "ll/routes.cuh",
        "const uint32_t hits = dev::ballot(note_id<kLayout>(args, scratch, peer, pass, place, id));\n"
        "    if (dev::lane_idx() == 0) scratch.place_hits[place / 32] = hits;",
        "if (dev::lane_idx() == 0) scratch.place_hits[place / 32] = 0;\n"
        "    if (note_id<kLayout>(args, scratch, peer, pass, place, id)) "
        "scratch.place_hits[place / 32] |= 1u << dev::lane_idx();",
        "Hits of other lanes are lost.",
        FEW,
    ),
    Mutant(
        "routes are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(op.route(peer, source, place.token, place.hits_before()), ",
        "dev::st(op.route(peer, source, place.token, place.hits_before()), ",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "counts are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(op.counts(peer, source, number), unit);",
        "(number > 0 ? dev::st(op.counts(peer, source, number), unit)\n"
        "                    : dev::st_unit(op.counts(peer, source, number), unit));",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "counts of tokens are sent as ordinary stores",
        "ll/routes.cuh",
        "dev::st_unit(op.counts(peer, source, number), unit);",
        "(number == 0 ? dev::st(op.counts(peer, source, number), unit)\n"
        "                     : dev::st_unit(op.counts(peer, source, number), unit));",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "that a token has no routes is sent as an ordinary store",
        "ll/routes.cuh",
        "dev::st_unit(op.route(peer, source, token, 0), ",
        "dev::st(op.route(peer, source, token, 0), ",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
]

ROWS = [
    Mutant(
        "lines are sent as ordinary stores",
        "ll/rows.cuh",
        "dev::st_line(lines + 32 * s + dev::lane_idx(), unit, packs[s].in_line);",
        "if (packs[s].in_line) dev::st(lines + 32 * s + dev::lane_idx(), unit);",
        "The tag may be seen before the words that it vouches for.",
        FEW,
    ),
    Mutant(
        "lines are sent as units",
        "ll/rows.cuh",
        "dev::st_line(lines + 32 * s + dev::lane_idx(), unit, packs[s].in_line);",
        "if (packs[s].in_line) dev::st_unit(lines + 32 * s + dev::lane_idx(), unit);",
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
        "LanePack::has_tag() && packs[s].in_line) arrived",
        "LanePack::has_tag() && packs[s].in_line && s == 0) arrived",
        "Words of lines that are still under way are taken.",
        MANY,
    ),
    Mutant(
        "the first line stands for all of a strip",
        "ll/rows.cuh",
        "LanePack::has_tag() && packs[s].in_line) arrived",
        "dev::lane_idx() == 7 && packs[s].in_line) arrived",
        "Words of lines that are still under way are taken.",
        MANY,
    ),
    Mutant(
        "each lane believes its own line alone",
        "ll/arrivals.cuh",
        "dev::all(row.has_tags(chunk.packs, op.epoch))",
        "row.has_tags(chunk.packs, op.epoch)",
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
        MANY_HITS,
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
        "receivers arrive before the table is complete",
        "ll/dispatch.cuh",
        "        fill(table, receivers, "
        "[&] { return read_counts<kPeers>(TeamCounts<kPeers>{op}, table, receivers); });\n"
        "        dev::bar_arrive(kTableBarrier, dev::num_threads());\n",
        "        dev::bar_arrive(kTableBarrier, dev::num_threads());\n"
        "        fill(table, receivers, "
        "[&] { return read_counts<kPeers>(TeamCounts<kPeers>{op}, table, receivers); });\n",
        "Pushing warps look places up that are not known yet.",
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
        "results are stored for as many tokens as there may be",
        "ll/collect.cuh",
        "num_items = num_tokens(args.routing.tokens) * num_chunks",
        "num_items = args.routing.tokens.most * num_chunks",
        "Rows of the caller's are overwritten.",
        COUNTS,
    ),
    Mutant(
        "weights are sent as ordinary stores",
        "ll/weights.cuh",
        "dev::st_unit(op.route(peer, op.group.rank, token, dev::lane_idx()), unit);",
        "dev::st(op.route(peer, op.group.rank, token, dev::lane_idx()), unit);",
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
        "weights are added up before all are listed",
        "ll/weights.cuh",
        "given.weight[i];\n  }\n  dev::sync_warp();",
        "given.weight[i];\n  }",
        "Lanes add weights up that other lanes have not listed yet.",
        FEW,
    ),
    Mutant(
        "weights are put into units before all are added up",
        "ll/weights.cuh",
        "row->sum_of(k, num_topk);\n  dev::sync_warp();",
        "row->sum_of(k, num_topk);",
        "Lanes send sums that other lanes have not made yet.",
        FEW,
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
        "  }\n  dev::sync_warp();\n  if (!dev::all(possible)) return 0;",
        "  }\n  if (!dev::all(possible)) return 0;",
        "Lanes read entries that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "lists of local rows are replaced without meeting the warp",
        "ll/combine.cuh",
        "  bool possible = true;\n  dev::sync_warp();  // the addends are about to be replaced\n",
        "  bool possible = true;\n",
        "A lane overwrites the list that others still read.",
        FEW,
    ),
    Mutant(
        "lists of ranks' rows are read without meeting the warp",
        "ll/collect.cuh",
        "  dev::sync_warp();\n  return num_addends;",
        "  return num_addends;",
        "Lanes read entries that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "lists of ranks' rows are replaced without meeting the warp",
        "ll/collect.cuh",
        "num_addends = 0;\n  dev::sync_warp();  // the addends are about to be replaced",
        "num_addends = 0;",
        "A lane overwrites the list that others still read.",
        FEW_BLOCKS,
    ),
    Mutant(
        "warps take each other's first items again",
        "ll/combine.cuh",
        "num_taken[0] = args.push_warps;",
        "num_taken[0] = 0;",
        "Rows are sent twice.",
        ("thrift",),
    ),
    Mutant(
        "one rank's row stands for all",
        "ll/collect.cuh",
        "if (is_awaited(r) && !all_rows",
        "if (r + 1 == count && is_awaited(r) && !all_rows",
        "Rows are added that are still under way.",
        FEW,
    ),
    Mutant(
        "each lane believes its own lines of all rows",
        "ll/collect.cuh",
        "    missing = dev::or_warp(missing);\n",
        "",
        "The lanes of a warp part, or add words that are still under way.",
        FEW,
    ),
]

FAILURES = [
    Mutant(
        "waits never end",
        "common/waiting.cuh",
        "dev::clock_ns() - start > group.timeout_ns",
        "false",
        "A silent rank makes the others hang.",
        ("silent-expert",),
    ),
    Mutant(
        "lanes run out of time each for itself",
        "common/waiting.cuh",
        "if (agreed(dev::clock_ns() - start > group.timeout_ns)) {",
        "if (dev::clock_ns() - start > group.timeout_ns) {",
        "Lanes go on to wait for those that have left.",
        IMPATIENT,
    ),
    Mutant(
        "lanes give up each for itself",
        "common/waiting.cuh",
        "if (agreed(has_failed(group))) return false;",
        "if (has_failed(group)) return false;",
        "Lanes go on to wait for those that have left.",
        IMPATIENT,
    ),
    Mutant(
        "operations begin after one that has failed",
        "ll/operation.cuh",
        " && !dev::any(failed)};",
        "};",
        "Combine believes what a dispatch that failed should have remembered.",
        SILENT_SOURCE,
    ),
    Mutant(
        "lanes find out each for itself whether an operation has failed",
        "ll/operation.cuh",
        " && !dev::any(failed)};",
        " && !failed};",
        "The lanes of the leader part.",
        BAD_EXPERT,
    ),
    Mutant(
        "that an operation has failed is read as ordinary data",
        "common/waiting.cuh",
        "return dev::ld_relaxed<dev::Scope::gpu>(&group.progress->failed) != 0;",
        "return group.progress->failed != 0;",
        "Polls may never see it.",
        SILENT_SOURCE,
    ),
    Mutant(
        "one lane answers for all peers",
        "ll/operation.cuh",
        "  return dev::all(ok);\n}\n\n// The ranks outside",
        "  return ok;\n}\n\n// The ranks outside",
        "The banks of a rank that is silent are overwritten.",
        SILENT_RECEIVER,
    ),
    Mutant(
        "warps go on without a peer",
        "ll/combine.cuh",
        "if (start.ready) {",
        "if (true) {",
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
        "common/waiting.cuh",
        "dev::atomic_exchange<dev::Order::relaxed, dev::Scope::gpu>(&group.progress->failed, 1u) != 0",
        "group.progress->failed++ != 0",
        "Two warps write the record at a time.",
        SILENT_SOURCE,
    ),
    Mutant(
        "any expert and row are believed that a handle remembers",
        "ll/combine.cuh",
        "      possible &= entry.expert < args.group.num_local_experts && entry.row < zone;\n",
        "",
        "Combine loads from anywhere after a dispatch that failed.",
        SILENT_SOURCE,
    ),
    Mutant(
        "any row is believed that a handle remembers",
        "ll/combine.cuh",
        "possible = header.row < layout.max_tokens;",
        "possible = true;",
        "Combine loads from anywhere after a dispatch that failed.",
        SILENT_SOURCE_RANK_MAJOR,
    ),
    Mutant(
        "lanes believe what a handle remembers each for itself",
        "ll/combine.cuh",
        "if (!dev::all(possible)) return 0;",
        "if (!possible) return 0;",
        "The lanes of a warp part.",
        SILENT_SOURCE,
    ),
    Mutant(
        "that a source is missing is noted as ordinary data",
        "ll/arrivals.cuh",
        "dev::st_relaxed<dev::Scope::block>(&table.has_all(), 0u);",
        "table.has_all() = 0;",
        "Several threads write at a time.",
        SILENT_SOURCE,
    ),
    Mutant(
        "that a source is missing is not in the table",
        "ll/arrivals.cuh",
        "if (!read()) dev::st_relaxed<dev::Scope::block>(&table.has_all(), 0u);",
        "read();",
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

MUTANTS = [*OPERATION, *BEGIN, *ROUTES, *ROWS, *DISPATCH, *COMBINE, *FAILURES]
