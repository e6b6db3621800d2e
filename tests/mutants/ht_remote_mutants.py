# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in what the High-Throughput kernels do with the network."""

from __future__ import annotations

from mutant import Mutant

FLAT = ("flat",)
BACKWARD = ("backward",)
RAILS = ("rails",)
CHUNKS = ("chunks",)
TILES = ("tiles",)
IDLE = ("idle",)
DROPS = ("drops",)
UPDATES = ("updates",)
SILENT = ("silent-team",)
OVERFLOW = ("overflow",)

SIGNALS = [
    Mutant(
        "a rail peer is taken to have started one operation too early",
        "ht/rails.cuh",
        "return has_reached(gin(kContext).read_signal(hello), op.epoch);",
        "return has_reached(gin(kContext).read_signal(hello), op.epoch - 1);",
        "Outboxes are overwritten while the network reads them.",
        (*FLAT, "backward", "rails"),
    ),
    Mutant(
        "a signal does not ride on its put",
        "ht/rails.cuh",
        "bytes, dev::weak(arrived, op.epoch - dev::ld(sent)));",
        "bytes);\n    context_of(word).signal(peer(i), dev::weak(arrived, op.epoch - dev::ld(sent)));",
        "What was put may land after it.",
        FLAT,
    ),
    Mutant(
        "a signal brings a word but one operation on",
        "ht/rails.cuh",
        "dev::weak(arrived, op.epoch - dev::ld(sent))",
        "dev::weak(arrived, 1)",
        "What has arrived is not seen.",
        FLAT,
    ),
    Mutant(
        "a rank whose rail peer does not start names itself",
        "ht/rails.cuh",
        "return op.wait_for({Wait::peer_start, peer(i), 0},",
        "return op.wait_for({Wait::peer_start, group.rank, 0},",
        "The rank that is to blame is not named.",
        SILENT,
    ),
    Mutant(
        "a rank mistakes its number among the teams of a peer",
        "ht/rails.cuh",
        "own_team() < team ? own_team() : own_team() - 1; }\n  EP_DEVICE uint32_t peer_in",
        "own_team() < team ? own_team() - 1 : own_team(); }\n  EP_DEVICE uint32_t peer_in",
        "Things arrive in another team's box.",
        RAILS,
    ),
    Mutant(
        "the word of the first chunk says that all have arrived",
        "ht/parcels.cuh",
        "Wait::remote_rows, i, HtRemoteLayout::kFirstChunk + chunk_of(parcel)",
        "Wait::remote_rows, i, HtRemoteLayout::kFirstChunk",
        "Rows are taken that are still under way.",
        CHUNKS,
    ),
]

COUNTS = [
    Mutant(
        "counts are passed on that have not come",
        "ht/update_remote.cuh",
        "it.await(op, Wait::remote_counts, i, HtRemoteLayout::kCounts) &&\n             ",
        "",
        "Counts of the update before are taken for new ones.",
        UPDATES,
    ),
    Mutant(
        "who first finds that rows have no room says so",
        "ht/zones.cuh",
        "if (!is_last_block(&args.group.progress->senders_done)) return;",
        "if (dev::thread_idx() != 0) return;",
        "Its rank's other blocks give up, and do not pass on what ranks of the team wait for.",
        OVERFLOW,
    ),
]

LISTS = [
    Mutant(
        "lists are written before rail peers have started",
        "ht/update_remote.cuh",
        "return dev::all_in_block(dev::warp_idx() != 0 || it.await_peers(op));",
        "return true;",
        "They are overwritten while the network reads them.",
        UPDATES,
    ),
    Mutant(
        "the first block that has written its part puts the lists",
        "ht/update_remote.cuh",
        "return is_last_block<dev::Order::acq_rel>(&args.group.progress->senders_done);",
        "return dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(&args.group.progress->senders_done, 1u)"
        " % dev::num_blocks() == 0;",
        "The parts of others are missing.",
        TILES,
    ),
    Mutant(
        "blocks that have written their parts are counted without order",
        "ht/update_remote.cuh",
        "is_last_block<dev::Order::acq_rel>",
        "is_last_block<dev::Order::relaxed>",
        "The parts of others may be missing.",
        TILES,
    ),
    Mutant(
        "lists are read that have not come",
        "ht/update_remote.cuh",
        "      if (!it.await(op, Wait::remote_records, i, HtRemoteLayout::kList)) return;\n",
        "",
        "Lists of the update before are taken for new ones.",
        FLAT,
    ),
]

DISPATCH = [
    Mutant(
        "parcels are packed before the rail peer has started",
        "ht/dispatch_remote.cuh",
        "    if (!dev::all(it.await_peer(op, i))) return op.warp_goes_on();\n",
        "",
        "They are overwritten while the network reads them.",
        FLAT,
    ),
    Mutant(
        "a chunk is put before all lanes have written it",
        "ht/dispatch_remote.cuh",
        "    dev::sync_warp();  // all of the chunk is written\n",
        "",
        "The network may read what was there before.",
        FLAT,
    ),
    Mutant(
        "guests are pushed that have not come",
        "ht/dispatch_remote.cuh",
        "has_come = boxes.await(op, i, send.token - boxes.rails.first_guest(i));",
        "has_come = true;",
        "Rows of an operation before are passed on.",
        FLAT,
    ),
    Mutant(
        "guests are pushed without meeting the lane that saw them come",
        "ht/dispatch_remote.cuh",
        "    dev::sync_warp();          // one lane pushes what any of them has seen come\n",
        "",
        "The lane that pushes them knows nothing of it.",
        CHUNKS,
    ),
    Mutant(
        "guests are read through another proxy than they were written",
        "ht/dispatch_remote.cuh",
        "    dev::fence_proxy_async();  // bulk copies will read what the network has written\n",
        "",
        "What was there before may be pushed.",
        FLAT,
    ),
    Mutant(
        "weights are taken from the token's first hit on",
        "ht/dispatch_remote.cuh",
        "boxes.weights(at(send.token).row) + hits.first;",
        "boxes.weights(at(send.token).row);",
        "Ranks get the weights of others.",
        FLAT,
    ),
    Mutant(
        "ranks of which no guest comes are not told so",
        "ht/dispatch.cuh",
        "if (flow != op.group.rank && args.handle",
        "if (flow != op.group.rank && op.group.is_in_team(flow) && args.handle",
        "They wait for ever, or till their time is up.",
        IDLE,
    ),
    Mutant(
        "dispatch ends before all parcels have come",
        "ht/dispatch.cuh",
        "  guests.await_all(op);\n",
        "",
        "The rail peer overwrites what the network still reads.",
        DROPS,
    ),
]

COMBINE = [
    Mutant(
        "sums are written before the rail peer has started",
        "ht/combine_remote.cuh",
        "    if (dev::all(it.await_peer(op, i))) {\n",
        "    if (true) {\n",
        "They are overwritten while the network reads them.",
        FLAT,
    ),
    Mutant(
        "the first sum of a chunk sends it",
        "ht/combine_remote.cuh",
        "if (before + 1 != boxes().size_of_chunk(chunk, num_parcels)) return;",
        "if (before != 0) return;",
        "The others are missing.",
        FLAT,
    ),
    Mutant(
        "sums of a chunk stay counted",
        "ht/combine_remote.cuh",
        "    dev::st_relaxed<dev::Scope::gpu>(num_ready, 0u);\n",
        "",
        "Nobody puts the chunk of the next combine.",
        FLAT,
    ),
    Mutant(
        "sums of a chunk are counted without order",
        "ht/combine_remote.cuh",
        "dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(num_ready, 1u)",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(num_ready, 1u)",
        "Sums of other warps may be missing.",
        FLAT,
    ),
    Mutant(
        "a sum counts before all lanes have written it",
        "ht/combine_remote.cuh",
        "    dev::sync_warp();  // all of the parcel is written\n",
        "",
        "The network may read what was there before.",
        FLAT,
    ),
    Mutant(
        "sums of other teams are added that have not come",
        "ht/combine_remote.cuh",
        "dev::ballot(exists && !boxes().await(op, exists ? number_of(dest) : 0, dest.row));",
        "0;",
        "Sums of an operation before are added.",
        FLAT,
    ),
    Mutant(
        "gradients of other teams are taken that have not come",
        "ht/combine_remote.cuh",
        "    if (!boxes().await(op, i, dest.row)) return false;\n",
        "",
        "Gradients of an operation before are taken for new ones.",
        BACKWARD,
    ),
    Mutant(
        "combine ends before all sums have come",
        "ht/combine.cuh",
        "    if (crews.receivers.has_me() && crews.receivers.worker() == 0) others.await_all(op);\n",
        "",
        "The rail peer overwrites what the network still reads.",
        DROPS,
    ),
]

MUTANTS = [*SIGNALS, *COUNTS, *LISTS, *DISPATCH, *COMBINE]
