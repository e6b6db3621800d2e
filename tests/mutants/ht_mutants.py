# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the High-Throughput kernels."""

from __future__ import annotations

from mutant import Mutant

FLAT = ("flat",)
UNEVEN = ("uneven", "one-source")
WINDOWS = ("flat-windows",)
TICKETS = ("tickets",)
EXPERT_MAJOR = ("expert-major",)
REPEATS = ("repeats",)
MANY_HITS = ("many-hits",)
TILES = ("tiles",)
IDLE_BLOCKS = ("idle-blocks",)
OVERFLOW = ("overflow",)
DROPS = ("drops",)
DROPS_EXPERT_MAJOR = ("drops-expert-major",)
SILENT_UPDATE = ("silent-update",)
SILENT_COMBINE = ("silent-combine",)
NO_RECORDS = ("no-records",)
AHEAD = ("ahead",)
QUEUE = ("queue",)
COUNTS = ("counts",)
UPDATES = ("updates",)
PIECES = ("pieces",)

BEGIN = [
    Mutant(
        "operations keep their number",
        "ht/tickets.cuh",
        "  dev::st_relaxed<dev::Scope::gpu>(&progress->epoch, op.epoch);\n",
        "",
        "What an operation before has left looks as if it had arrived.",
        FLAT,
    ),
    Mutant(
        "updates keep their number",
        "ht/update.cuh",
        "if (is_first) dev::st_relaxed<dev::Scope::gpu>(&args.group.progress->epoch, op.epoch);",
        "(void)is_first;",
        "What an operation before has left looks as if it had arrived.",
        UPDATES,
    ),
    Mutant(
        "a peer is taken to have started one operation too early",
        "ht/operation.cuh",
        "last_of(peer) - epoch) >= 0;",
        "last_of(peer) - epoch) >= -1;",
        "What it still reads is overwritten.",
        FLAT,
    ),
    Mutant(
        "that a peer has started is read without acquiring",
        "ht/operation.cuh",
        "dev::ld_acquire<dev::Scope::system>(hello(peer))",
        "dev::ld_relaxed<dev::Scope::system>(hello(peer))",
        "Nothing orders what the peer has read before what is written now.",
        FLAT,
    ),
    Mutant(
        "that a rank has started is told without releasing",
        "ht/operation.cuh",
        "dev::st_release<dev::Scope::system>(hello, epoch);",
        "dev::st_relaxed<dev::Scope::system>(hello, epoch);",
        "Nothing orders what the rank has read before what is written now.",
        FLAT,
    ),
    Mutant(
        "an operation counts when the first block is done",
        "common/operation.cuh",
        "if (before + 1 != dev::num_blocks()) return false;",
        "if (before != 0) return false;",
        "Blocks that start late take the next operation's number.",
        IDLE_BLOCKS,
    ),
    Mutant(
        "a block does not wait for its first warp",
        "ht/operation.cuh",
        "  dev::sync_block();\n  return start;\n",
        "  return start;\n",
        "It goes on with what an earlier block has left.",
        FLAT,
    ),
    Mutant(
        "the first block of an update does not wait for its first warp",
        "ht/update.cuh",
        "count_tiles(args, scratch) : dev::sync_block();",
        "count_tiles(args, scratch) : (void)0;",
        "It goes on with what an earlier block has left.",
        FLAT,
    ),
    Mutant(
        "a unit of any operation is taken",
        "common/operation.cuh",
        "return unit.epoch == epoch;",
        "return unit.epoch != 0;",
        "Records and weights of an operation before are taken for new ones.",
        FLAT,
    ),
    Mutant(
        "operations begin after one that has failed",
        "ht/operation.cuh",
        "start[0] = {{epoch, !failed}, turn};",
        "start[0] = {{epoch, 1}, turn};",
        "Dispatch believes what an update that failed should have remembered.",
        SILENT_UPDATE,
    ),
    Mutant(
        "a fault names a rank that is held up itself",
        "ht/operation.cuh",
        "      if (behind <= most) continue;\n",
        "      if (behind >= most) continue;\n",
        "The rank that is to blame is not named.",
        SILENT_COMBINE,
    ),
]

TOPK = [
    Mutant(
        "all places of a repeated expert are first",
        "ht/routes.cuh",
        "is_first = is_first && places.experts[place.base + j] != expert;",
        "is_first = is_first;",
        "A row that repeats an expert has too many hits.",
        REPEATS,
    ),
    Mutant(
        "experts are compared before all are noted",
        "ht/routes.cuh",
        "places.experts[me] = expert;\n  dev::sync_block();\n",
        "places.experts[me] = expert;\n",
        "Places of other tokens are taken for repeats.",
        REPEATS,
    ),
]

WEIGHTS = [
    Mutant(
        "weights are sent as ordinary stores",
        "ht/weights.cuh",
        "dev::st_unit(group",
        "dev::st(group",
        "The tag may be seen before the words that it vouches for.",
        FLAT,
    ),
    Mutant(
        "weights are not awaited",
        "ht/weights.cuh",
        "if (!op.wait_for_unit(awaited, address, unit)) return false;",
        "unit = dev::ld_unit(address);",
        "Weights of the operation before are taken for new ones.",
        UNEVEN,
    ),
]

UPDATE = [
    Mutant(
        "dispatch and combine are told the most tokens that there may be",
        "ht/zones.cuh",
        "const uint32_t tokens = num_tokens(args.topk.tokens);",
        "const uint32_t tokens = args.topk.tokens.most;",
        "They use what the handle remembers of tokens that there are no more.",
        COUNTS,
    ),
    Mutant(
        "a block tells its counts as ordinary stores",
        "ht/counts.cuh",
        "dev::st_unit(block_counts(args, dev::block_idx(), u), unit);",
        "dev::st(block_counts(args, dev::block_idx(), u), unit);",
        "The tag may be seen before the words that it vouches for.",
        TILES,
    ),
    Mutant(
        "a block's counts of any operation are taken",
        "ht/counts.cuh",
        "dev::num_blocks() || units[i].epoch == op.epoch) continue;",
        "dev::num_blocks() || units[i].epoch != 0) continue;",
        "Counts of the update before are read.",
        COUNTS,
    ),
    Mutant(
        "blocks are added up before all sums are cleared",
        "ht/counts.cuh",
        "scratch.next[c] = scratch.total[c] = 0; });\n  dev::sync_block();\n",
        "scratch.next[c] = scratch.total[c] = 0; });\n",
        "Counts of other threads are lost.",
        TILES,
    ),
    Mutant(
        "counts are used before all blocks are added up",
        "ht/counts.cuh",
        "  return dev::all_in_block(ok);",
        "  return ok;",
        "Some tokens are not counted.",
        TILES,
    ),
    Mutant(
        "tokens are noted before the last ones are cleared",
        "ht/counts.cuh",
        "{ scratch.bits[i] = 0; });\n  dev::sync_block();\n",
        "{ scratch.bits[i] = 0; });\n",
        "Tokens that were noted are cleared again.",
        FLAT,
    ),
    Mutant(
        "tokens are counted before all are noted",
        "ht/counts.cuh",
        "    expert = load(place);\n  }\n  dev::sync_block();\n",
        "    expert = load(place);\n  }\n",
        "Tokens are missing.",
        FLAT,
    ),
    Mutant(
        "a tile's tokens are cleared before they are counted",
        "ht/counts.cuh",
        "{ scratch.next[c] += scratch.of(c).count(scratch.num_words); });\n    dev::sync_block();\n",
        "{ scratch.next[c] += scratch.of(c).count(scratch.num_words); });\n",
        "Tokens are missing.",
        TILES,
    ),
    Mutant(
        "counts are sent as ordinary stores",
        "ht/rank_counts.cuh",
        "dev::st_unit(group.window.at<Unit>(peer, group.layout.counts_at(group.rank, u))",
        "dev::st(group.window.at<Unit>(peer, group.layout.counts_at(group.rank, u))",
        "The tag may be seen before the words that it vouches for.",
        FLAT,
    ),
    Mutant(
        "counts are replaced before they are sent",
        "ht/rank_counts.cuh",
        "  dev::sync_block();  // the counts are about to be replaced\n",
        "",
        "Other ranks get counts of all ranks.",
        FLAT,
    ),
    Mutant(
        "counts of any update are taken",
        "ht/rank_counts.cuh",
        "group.num_ranks || units[i].epoch == op.epoch) continue;",
        "group.num_ranks || units[i].epoch != 0) continue;",
        "Counts of the update before are taken for new ones.",
        FLAT,
    ),
    Mutant(
        "blocks are added up without an atomic",
        "ht/counts.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::block>(scratch.total + c, all[j]);",
        "scratch.total[c] += all[j];",
        "Counts of other threads are lost.",
        FLAT,
    ),
    Mutant(
        "zones are found before all ranks' counts are added up",
        "ht/update.cuh",
        "return dev::all_in_block(has_all);",
        "return has_all;",
        "Rows get places that belong to others.",
        FLAT,
    ),
    Mutant(
        "rows are placed before all zones are found",
        "ht/zones.cuh",
        "return dev::all_in_block(fits);",
        "return fits;",
        "Rows get places that belong to others, and the threads of a block part.",
        EXPERT_MAJOR,
    ),
    Mutant(
        "too many rows are not reported",
        "ht/zones.cuh",
        "return args.max_slots == 0 || wanted <= args.max_slots;",
        "return true;",
        "Rows are written behind an output.",
        OVERFLOW,
    ),
    Mutant(
        "too many rows are reported by the rank that would receive them",
        "ht/zones.cuh",
        "fits = has_room(args, wanted) && fits;",
        "fits = (rank != args.group.rank || has_room(args, wanted)) && fits;",
        "The others go on as if nothing was wrong.",
        OVERFLOW,
    ),
    Mutant(
        "rows are sent before it is known which are left for each rank",
        "ht/zones.cuh",
        "own.kept(*args.handle.source(source)); });\n  dev::sync_block();\n",
        "own.kept(*args.handle.source(source)); });\n",
        "Rows of two ranks lie at the same places among those to send.",
        DROPS,
    ),
    Mutant(
        "what experts keep is counted without an atomic",
        "ht/place.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(counters + hit, 1u);",
        "++counters[hit];",
        "Rows of other threads are lost.",
        DROPS,
    ),
    Mutant(
        "records are sent as ordinary stores",
        "ht/place.cuh",
        "dev::st_unit(group.window.at<Unit>(rank, group.layout.record_at",
        "dev::st(group.window.at<Unit>(rank, group.layout.record_at",
        "The tag may be seen before the words that it vouches for.",
        FLAT,
    ),
    Mutant(
        "records are not awaited",
        "ht/place.cuh",
        "if (!get(row, 0, unit)) {",
        "unit = dev::ld_unit(group.window.at<Unit>(group.rank, group.layout.record_at(row, 0)));\n"
        "if (false) {",
        "Records of the update before are taken for new ones.",
        FLAT,
    ),
    Mutant(
        "a rank that misses a record names itself",
        "ht/place.cuh",
        "Awaited{Wait::row_record, op.deals_with(source_of(op, rows, row)), row}",
        "Awaited{Wait::row_record, group.rank, row}",
        "The rank that is to blame is not named.",
        NO_RECORDS,
    ),
    Mutant(
        "further hits are not awaited",
        "ht/place.cuh",
        "if (hit % 3 == 1 && !get(row, 1 + hit / 3, unit)) {",
        "if (hit % 3 == 1) unit = dev::ld_unit("
        "group.window.at<Unit>(group.rank, group.layout.record_at(row, 1 + hit / 3)));\n"
        "if (false) {",
        "Hits of the update before are taken for new ones.",
        MANY_HITS + TILES,
    ),
    Mutant(
        "destinations are counted before all are noted",
        "ht/routes.cuh",
        "place.base, expert, is_first);\n  dev::sync_block();\n",
        "place.base, expert, is_first);\n",
        "Rows miss hits, tokens miss ranks.",
        FLAT,
    ),
    Mutant(
        "hits are counted before all places are noted",
        "ht/routes.cuh",
        "is_first && is_kept ? expert : kNone;\n  dev::sync_block();\n",
        "is_first && is_kept ? expert : kNone;\n",
        "Rows miss hits.",
        FLAT,
    ),
    Mutant(
        "hits are told before all are noted",
        "ht/place.cuh",
        "  dev::sync_block();\n  if (!route.leads",
        "  if (!route.leads",
        "Receivers learn of other hits.",
        MANY_HITS + TILES,
    ),
    Mutant(
        "the next tile is noted before the last one is counted",
        "ht/place.cuh",
        "scratch.next[c] += scratch.of(c).count(scratch.num_words); });\n    dev::sync_block();\n",
        "scratch.next[c] += scratch.of(c).count(scratch.num_words); });\n",
        "Two tokens get the same row.",
        TILES,
    ),
    Mutant(
        "the next tile is noted before all of the last one have their rows",
        "ht/place.cuh",
        "    dev::sync_block();\n    for_each_thread(scratch.num_counters,",
        "    for_each_thread(scratch.num_counters,",
        "Tokens get the rows of others.",
        TILES,
    ),
]
PUSHING = [
    Mutant(
        "ranges of rows are read before all are known",
        "ht/dispatch.cuh",
        "  const RowRanges ranges = load_row_ranges(args.group, args.handle);\n"
        "  const HtStart start = begin(args.group, guests.rails());\n",
        "  const HtStart start = begin(args.group, guests.rails());\n"
        "  const RowRanges ranges = load_row_ranges(args.group, args.handle);\n",
        "Warps look at rows of an earlier block's ranges.",
        FLAT,
    ),
    Mutant(
        "warps take rows without an atomic",
        "ht/tickets.cuh",
        "return dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(num_taken, step);",
        "return (*num_taken += step) - step;",
        "Two warps push the same rows.",
        FLAT,
    ),
    Mutant(
        "rows are pushed to a peer that has not started",
        "ht/tickets.cuh",
        "if (!dev::all(op.await_peer(rank_of_flow(op.group, flow)))) {",
        "if (false) {",
        "It still reads what is overwritten.",
        AHEAD,
    ),
    Mutant(
        "an operation clears its own counters",
        "ht/tickets.cuh",
        "const uint32_t next = 1 - op.turn;",
        "const uint32_t next = op.turn;",
        "Other warps still look at them.",
        FLAT,
    ),
    Mutant(
        "the counters of the next operation are not cleared",
        "ht/tickets.cuh",
        "plan.pushed[next * op.group.num_ranks + flow] = {0, 0};",
        "(void)flow;",
        "All rows seem to have been taken.",
        FLAT,
    ),
    Mutant(
        "operations do not take turns",
        "ht/tickets.cuh",
        "  dev::st_relaxed<dev::Scope::gpu>(&progress->turn, next);\n",
        "",
        "All rows seem to have been taken.",
        FLAT,
    ),
    Mutant(
        "that all is done is told without releasing",
        "ht/tickets.cuh",
        "dev::st_release<dev::Scope::system>(group.window.at<uint32_t>(peer, group.layout.done_at",
        "dev::st_relaxed<dev::Scope::system>(group.window.at<uint32_t>(peer, group.layout.done_at",
        "Rows may be read before they have come.",
        TICKETS,
    ),
    Mutant(
        "warps say what has arrived without an order",
        "ht/tickets.cuh",
        "dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(&pushed(op, plan, flow).num_arrived",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(&pushed(op, plan, flow).num_arrived",
        "Rows of other warps may be read before they have come.",
        TICKETS,
    ),
    Mutant(
        "the first warp that is done says so for all",
        "ht/tickets.cuh",
        "if (before + count == num_rows) tell_done",
        "if (before == 0) tell_done",
        "The kernel ends before all rows have come.",
        TICKETS,
    ),
    Mutant(
        "that all is done is read without acquiring",
        "ht/tickets.cuh",
        "dev::ld_acquire<dev::Scope::system>(done)",
        "dev::ld_relaxed<dev::Scope::system>(done)",
        "Rows may be read before they have come.",
        WINDOWS,
    ),
]

FLAGS = [
    Mutant(
        "flags are raised without a fence",
        "ht/flags.cuh",
        "    dev::fence<dev::Scope::system>();\n",
        "",
        "A flag may be seen before its row.",
        FLAT,
    ),
    Mutant(
        "flags are raised before the warp has filled their slots",
        "ht/flags.cuh",
        "while (is_open && end - num_raised < FlagQueue::kSize && is_filled(end)) ++end;",
        "if (is_open && is_filled(end)) end += 2;",
        "A flag may be raised before its row has arrived.",
        FLAT,
    ),
    Mutant(
        "a queue takes more flags than it holds",
        "ht/flags.cuh",
        "dev::mbar_wait(queue.freed + FlagQueue::slot(row), FlagQueue::parity(row - FlagQueue::kSize));\n",
        "",
        "A flag is raised twice and another one never.",
        QUEUE,
    ),
    Mutant(
        "a row's flag of any operation is believed",
        "ht/flags.cuh",
        "== op.epoch;\n}",
        "!= 0;\n}",
        "Rows of an operation before are taken for new ones.",
        FLAT,
    ),
    Mutant(
        "a row's flag is read without acquiring",
        "ht/flags.cuh",
        "dev::ld_acquire<dev::Scope::system>(flag_of",
        "dev::ld_relaxed<dev::Scope::system>(flag_of",
        "A row may be read before it has come.",
        FLAT,
    ),
    Mutant(
        "one row stands for all that a warp awaits",
        "ht/flags.cuh",
        "dev::ballot(awaits && !has_come(op, slot));",
        "dev::ballot(awaits && !has_come(op, slot)) & 1;",
        "Rows are taken that are still under way.",
        FLAT,
    ),
]

MOVER = [
    Mutant(
        "mbarriers are used before they are initialised",
        "ht/mover.cuh",
        "    for (uint32_t i = 0; i < kHtStages; ++i) dev::mbar_init(loaded + i, 1);\n",
        "",
        "Bulk copies count into whatever the memory holds.",
        FLAT,
    ),
    Mutant(
        "a stage is filled while its last store is read",
        "ht/mover.cuh",
        "dev::bulk_wait_read<kHtStages - kLoadsAhead - 1>();",
        "dev::bulk_wait_read<kHtStages - kLoadsAhead>();",
        "A row goes out with bytes of another one.",
        PIECES,
    ),
    Mutant(
        "a stage is stored before it is loaded",
        "ht/mover.cuh",
        "    dev::mbar_wait(loaded + num_stores % kHtStages, num_stores / kHtStages % 2);\n",
        "",
        "A row goes out with bytes of another one.",
        FLAT,
    ),
    Mutant(
        "one store fewer is awaited",
        "ht/mover.cuh",
        "dev::bulk_wait<kStoresBehind>();",
        "dev::bulk_wait<kStoresBehind + 1>();",
        "A flag is raised before its row has come.",
        PIECES,
    ),
    Mutant(
        "a row counts as arrived with its first piece",
        "ht/mover.cuh",
        "flags.finish((num_stores - kStoresBehind) / plan.num_pieces);",
        "flags.finish((num_stores - kStoresBehind + plan.num_pieces - 1) / plan.num_pieces);",
        "A flag is raised before its row has come.",
        PIECES,
    ),
    Mutant(
        "what has been pushed is not awaited at the end",
        "ht/mover.cuh",
        "    dev::bulk_wait<0>();\n",
        "",
        "The peer is told that all is done, and it is not.",
        WINDOWS,
    ),
]

COUNTS_ROWS = (
    "  if (ok && dev::lane_idx() == 0) {\n"
    "    add_arrived(op, args.move, flow, num_mine, "
    "num_arrivals<RowMover::kHasScales>(args.scales, outgoing.num_rows));\n"
    "  }\n"
)
DISPATCH = [
    Mutant(
        "a peer's memory is written through another proxy than before",
        "ht/tickets.cuh",
        "      dev::fence_proxy_async();  // bulk copies will overwrite what others have written there\n",
        "",
        "What another rank has written there before may come after it.",
        FLAT,
    ),
    Mutant(
        "a peer is told that all has arrived before it has",
        "ht/dispatch.cuh",
        f"  mover.drain();\n{COUNTS_ROWS}",
        f"{COUNTS_ROWS}  mover.drain();\n",
        "Its kernel ends before all rows have come.",
        WINDOWS,
    ),
    Mutant(
        "the kernel does not wait until all is done",
        "ht/dispatch.cuh",
        "  await_all_done(op);\n",
        "",
        "The caller reads rows that have not come.",
        WINDOWS,
    ),
    Mutant(
        "a block's queues are opened after it has met",
        "ht/dispatch.cuh",
        "  open_queues(queues);\n  const RowRanges ranges = load_row_ranges(args.group, args.handle);\n"
        "  const HtStart start = begin(args.group, guests.rails());\n",
        "  const RowRanges ranges = load_row_ranges(args.group, args.handle);\n"
        "  const HtStart start = begin(args.group, guests.rails());\n  open_queues(queues);\n",
        "Flags of other warps are lost.",
        FLAT,
    ),
    Mutant(
        "rows are delivered that have not come",
        "ht/deliver.cuh",
        "  if (!it.has_come && !await_rows(op, awaited, true, it.row)) return op.warp_goes_on();\n",
        "",
        "Rows of the operation before are delivered.",
        FLAT,
    ),
    Mutant(
        "nobody awaits the flags of rows that are where they belong",
        "ht/deliver.cuh",
        "  if (direct && !kExpertMajor) return true;\n",
        "  if (direct && (!kExpertMajor || num_slots == 1)) return true;\n",
        "They are raised when the next operation has raised its own there.",
        ("late-flags",),
    ),
    Mutant(
        "a row is delivered without meeting the lane that saw it come",
        "ht/deliver.cuh",
        "  dev::sync_warp();  // another lane may have seen it come\n",
        "",
        "The lanes that copy it know nothing of it.",
        ("tiles", "idle-blocks", "one-source"),
    ),
    Mutant(
        "the last row of padding is not filled",
        "ht/deliver.cuh",
        "for (uint32_t i = zone.num_rows; i < zone.num_slots; ++i)",
        "for (uint32_t i = zone.num_rows; i + 1 < zone.num_slots; ++i)",
        "The caller reads what was there before.",
        EXPERT_MAJOR,
    ),
]

COMBINE = [
    Mutant(
        "sums are made before all their rows are listed",
        "ht/combine.cuh",
        "    if (dev::lane_idx() == 0) flags.add(flag);\n    dev::sync_warp();\n",
        "    if (dev::lane_idx() == 0) flags.add(flag);\n",
        "Rows of another sum are added.",
        EXPERT_MAJOR,
    ),
    Mutant(
        "a sum's flag is raised before all lanes have stored it",
        "ht/combine.cuh",
        "    dev::sync_warp();  // what all lanes have stored is one lane's to publish\n",
        "",
        "Parts of the sum are still under way.",
        EXPERT_MAJOR,
    ),
    Mutant(
        "results are added up that have not come",
        "ht/combine.cuh",
        "dest.rank, token}, is_here && !in_place, slot, lost)) return false;",
        "dest.rank, token}, false, slot, lost)) return false;",
        "Results of the operation before are added.",
        FLAT,
    ),
    Mutant(
        "results are added up before all are listed",
        "ht/combine.cuh",
        "  dev::sync_warp();\n  return true;\n}\n\n// What a warp adds up",
        "  return true;\n}\n\n// What a warp adds up",
        "Results of another token are added.",
        FLAT,
    ),
    Mutant(
        "results are listed while the last ones are added up",
        "ht/combine.cuh",
        "  dev::sync_warp();  // the last token's addends are about to be replaced\n",
        "",
        "Results of another token are added.",
        UNEVEN,
    ),
    Mutant(
        "places without an expert keep their gradients",
        "ht/gradients.cuh",
        "if (places[k] == HtHandleLayout::kNoHit) out[k] = 0;",
        "",
        "The caller reads what was there before.",
        ("backward",),
    ),
    Mutant(
        "a gradient of any operation is taken",
        "common/operation.cuh",
        "return unit.epoch == epoch;",
        "return unit.epoch != 0;",
        "Weights that dispatch has brought are taken for gradients.",
        ("backward",),
    ),
]

DROPPING = [
    Mutant(
        "what is kept is counted without an atomic",
        "ht/place.cuh",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(counters + hit, 1u);",
        "counters[hit] += 1;",
        "Of two tokens that are counted at a time one is lost.",
        DROPS,
    ),
    Mutant(
        "where sends begin is found before all rows are thinned out",
        "ht/zones.cuh",
        "own.kept(*args.handle.source(source)); });\n  dev::sync_block();\n",
        "own.kept(*args.handle.source(source)); });\n",
        "Some rows count that are dropped.",
        DROPS,
    ),
    Mutant(
        "an expert's first tokens are kept",
        "ht/zones.cuh",
        "return total <= room || uint64_t{i} * room % total + room >= total;",
        "return i < room;",
        "They share places, and others stay empty.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "dropped rows are pushed",
        "ht/dispatch.cuh",
        " || slot == HtHandleLayout::kNoSlot",
        "",
        "They have no place.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "dropped rows are delivered",
        "ht/parties.cuh",
        "received.exists = received.home.num_hits > 0;",
        "received.exists = true;",
        "They never come.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "dropped rows are summed",
        "ht/combine.cuh",
        "if (it.home.num_hits == 0) continue;",
        "",
        "Their sum comes to the home slot of another one.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "nothing is said of dropped rows",
        "ht/place.cuh",
        "if (!route.leads || !(kExpertMajor || route.is_dest())) return;",
        "if (!route.is_dest()) return;",
        "Receivers wait for records that nobody sends.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "dropped rows have home slots",
        "ht/routes.cuh",
        "{ return leads && num_hits > 0; }",
        "{ return leads; }",
        "Nothing comes there.",
        DROPS_EXPERT_MAJOR,
    ),
    Mutant(
        "routes are kept that were found before it was known what is dropped",
        "ht/place.cuh",
        "const bool first_hold = !thins && all_take_part(op) && departures.all_have_told();",
        "const bool first_hold = true;",
        "Tokens get rows that there is no room for.",
        DROPS,
    ),
]

MUTANTS = [*BEGIN, *TOPK, *WEIGHTS, *UPDATE, *DROPPING, *PUSHING, *FLAGS, *MOVER, *DISPATCH, *COMBINE]
