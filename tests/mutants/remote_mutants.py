# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in what the Low-Latency kernels do with the network."""

from __future__ import annotations

from mutant import Mutant

FEW = ("expert-major",)
RANK_MAJOR = ("rank-major",)
MANY = ("expert-major-many", "expert-major")
IDLE_RECEIVER = ("idle-receiver", "rank-major")

SIGNALS = [
    Mutant(
        "the last row's signal is weak",
        "ll/remote.cuh",
        "dev::strong(dev::signal(numbers().rows(group.rank)))",
        "dev::weak(dev::signal(numbers().rows(group.rank)))",
        "Rows may land after it.",
        FEW,
    ),
    Mutant(
        "the signal of a head does not ride on it",
        "ll/remote.cuh",
        "in_window(network.layout.outbox_at(op.bank, i)), bytes, arrived);",
        "in_window(network.layout.outbox_at(op.bank, i)), bytes);\n"
        "    gin(kContext).signal(rank(i), arrived);",
        "The head may land after it.",
        FEW,
    ),
    Mutant(
        "rows are put in another context than their signal",
        "ll/remote.cuh",
        "gin(context_of(token)).put(",
        "gin(kContext).put(",
        "Contexts are not ordered.",
        FEW,
    ),
    Mutant(
        "rows are awaited in another context",
        "ll/remote.cuh",
        "count(context_of(token), numbers().rows(source))",
        "count(kContext, numbers().rows(source))",
        "Contexts are not ordered.",
        FEW,
    ),
    Mutant(
        "heads of both banks have one signal",
        "shared/ll_network.hpp",
        "return (1 + bank) * num_ranks + source;",
        "return num_ranks + source;",
        "The next head may land before this one and be taken for it.",
        FEW,
    ),
    Mutant(
        "the first warp that has put its rows tells so",
        "ll/remote.cuh",
        "if (dev::shfl(before, 0) + 1 != num_warps) return;",
        "if (dev::shfl(before, 0) != 0) return;",
        "Other warps' rows are put after the signal.",
        FEW,
    ),
    Mutant(
        "warps that have put their rows are counted without order",
        "ll/remote.cuh",
        "dev::atomic_add<dev::Order::acq_rel, dev::Scope::gpu>(ended, 1u)",
        "dev::atomic_add<dev::Order::relaxed, dev::Scope::gpu>(ended, 1u)",
        "Other warps' rows may be put after the signal, as far as anything orders the two.",
        FEW,
    ),
    Mutant(
        "a warp is counted before its lanes have put their rows",
        "ll/remote.cuh",
        "    dev::sync_warp();  // so that the lanes' puts are before the count\n",
        "",
        "Their rows may be put after the signal, as far as anything orders the two.",
        FEW,
    ),
    Mutant(
        "lanes signal before they know that all rows have been put",
        "ll/remote.cuh",
        "    dev::sync_warp();  // and all of them before the signals\n",
        "",
        "Only one lane has seen the count.",
        FEW,
    ),
]

OUTBOX = [
    Mutant(
        "a row is put before all lanes have written it",
        "ll/dispatch_remote.cuh",
        "    dev::sync_warp();  // all of the row has been written\n",
        "",
        "The network may read what was there before.",
        FEW,
    ),
    Mutant(
        "a sum is put before all lanes have written it",
        "ll/combine_remote.cuh",
        "    dev::sync_warp();  // all of the row has been written\n",
        "",
        "The network may read what was there before.",
        FEW,
    ),
    Mutant(
        "routes are put before all warps have written them",
        "ll/dispatch_remote.cuh",
        "  followers().sync(kRoutesBarrier);  // all of the head has been written\n",
        "",
        "The network may read what was there before.",
        FEW,
    ),
    Mutant(
        "weights are put before all lanes have written them",
        "ll/combine_remote.cuh",
        "    dev::sync_warp();  // all of the head has been written\n",
        "",
        "The network may read what was there before.",
        FEW,
    ),
    Mutant(
        "there is one outbox for all operations",
        "shared/ll_network.hpp",
        "return box_at(2 * bank + 1, remote);",
        "return box_at(1, remote);",
        "Rows are overwritten while the network reads them.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "there is one inbox for all operations",
        "shared/ll_network.hpp",
        "return box_at(2 * bank, remote);",
        "return box_at(0, remote);",
        "Rows are overwritten while they are read.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "remote ranks are not awaited",
        "ll/operation.cuh",
        "(await_peers(op) && remote.await_peers(op.epoch));",
        "await_peers(op);",
        "Boxes may be overwritten while they are read, here and there.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "a remote bank is taken to be free one operation too early",
        "ll/remote.cuh",
        "has_finished(peer, epoch - LlLayout::kNumBanks)",
        "has_finished(peer, epoch - LlLayout::kNumBanks - 1)",
        "Boxes may be overwritten while they are read, here and there.",
        IDLE_RECEIVER,
    ),
    Mutant(
        "remote banks are noted to be free too early",
        "ll/remote.cuh",
        "finished &= has_finished(rank(i), epoch) ||",
        "finished &= has_finished(rank(i), epoch - 1) ||",
        "Boxes may be overwritten while they are read, here and there.",
        IDLE_RECEIVER,
    ),
]

ARRIVALS = [
    Mutant(
        "heads are not awaited",
        "ll/dispatch_remote.cuh",
        "    if (!remote.has_head(op.epoch, source)) return false;\n",
        "",
        "Counts of two operations ago are taken for new ones.",
        FEW,
    ),
    Mutant(
        "rows are not awaited",
        "ll/dispatch_remote.cuh",
        "[&] { return dev::all(remote.has_rows(op.epoch, source, record.token)); }",
        "[&] { return true; }",
        "Rows are taken that are still under way.",
        FEW,
    ),
    Mutant(
        "weights are not awaited",
        "ll/combine_remote.cuh",
        "[&] { return dev::all(home.remote.has_head(op.epoch, item.home)); }",
        "[&] { return true; }",
        "Rows are added with the weights of two operations ago.",
        FEW,
    ),
    Mutant(
        "sums are not awaited",
        "ll/combine_remote.cuh",
        "    if (!dev::all(remote.has_rows(op.epoch, addend.k, token))) return false;\n",
        "",
        "Rows are added that are still under way.",
        FEW,
    ),
    Mutant(
        "routes are read without meeting the warp",
        "ll/dispatch_remote.cuh",
        "routes[hit] = Route::decode(dev::ld(units + hit));\n  dev::sync_warp();",
        "routes[hit] = Route::decode(dev::ld(units + hit));",
        "Lanes read routes that other lanes have not written yet.",
        RANK_MAJOR,
    ),
    Mutant(
        "routes are reused without meeting the warp",
        "ll/dispatch_remote.cuh",
        "    dev::sync_warp();  // the routes are about to be reused\n",
        "",
        "A lane overwrites routes that others still read.",
        MANY,
    ),
    Mutant(
        "weights are read without meeting the warp",
        "ll/combine_remote.cuh",
        "    addends[hit].weight = dev::ld(weights + addends[hit].k);\n  }\n  dev::sync_warp();\n",
        "    addends[hit].weight = dev::ld(weights + addends[hit].k);\n  }\n",
        "Lanes add with weights that other lanes have not written yet.",
        FEW,
    ),
    Mutant(
        "remote ranks are not greeted",
        "ll/operation.cuh",
        "    remote.announce(finished);\n",
        "",
        "They wait for ever, or till their time is up.",
        FEW,
    ),
]

MUTANTS = [*SIGNALS, *OUTBOX, *ARRIVALS]
