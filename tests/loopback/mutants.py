# SPDX-License-Identifier: Apache-2.0
"""Deliberate bugs in the plugin. Each must be noticed, or real ones would not be either."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from plugin_build import PLUGIN


@dataclass(frozen=True)
class PluginMutant:
    """One textual change of a source of the plugin.

    Attributes:
        name: what is wrong.
        file: below ``src/gin_loopback``.
        original: a snippet that occurs once there.
        replacement: what takes its place.
        scenario: the one of ``ranks.cpp`` that notices.
    """

    name: str
    file: str
    original: str
    replacement: str
    scenario: str = "rounds"

    def write_sources(self, folder: Path) -> Path:
        """A copy of the plugin's sources with the bug."""
        copy = folder / PLUGIN.name
        shutil.copytree(PLUGIN, copy)
        file = copy / self.file
        text = file.read_text()
        assert text.count(self.original) == 1, (
            f"{self.name}: {text.count(self.original)} times in {self.file}"
        )
        file.write_text(text.replace(self.original, self.replacement))
        return copy


MUTANTS = [
    PluginMutant(
        "signal_before_the_copy_ends",
        "transfers.cpp",
        "if (!transfer->has_landed) {",
        "if (!transfer->has_started) {",
    ),
    PluginMutant(
        "done_before_the_copy_ends",
        "transfers.cpp",
        "transfer->has_started = true;",
        "transfer->has_started = true;\n    transfer->is_done = !transfer->signal;",
    ),
    PluginMutant(
        "strong_signal_as_a_weak_one",
        "transfers.cpp",
        "const bool may_signal = have_earlier_puts_landed || !transfer->is_strong;",
        "const bool may_signal = true;",
    ),
    PluginMutant(
        "strong_signal_before_delayed_puts",
        "transfers.cpp",
        "have_earlier_puts_landed &= !transfer->is_put;",
        "have_earlier_puts_landed &= !(transfer->is_put && transfer->has_started);",
    ),
    PluginMutant(
        "own_put_repeats_its_first_piece",
        "lane.cpp",
        "requested.src + done, bytes);",
        "requested.src, bytes);",
    ),
    PluginMutant(
        "one_slot_for_all_copies",
        "lane.cpp",
        "const uint64_t idx = num_started_ % kDepth;",
        "const uint64_t idx = 0;",
    ),
    PluginMutant(
        "lane_is_never_full",
        "lane.hpp",
        "return num_started_ - num_landed_ == kDepth;",
        "return false;",
        "burst",
    ),
    PluginMutant(
        "mailbox_is_never_full",
        "mailbox.cpp",
        "if (posted - ring.num_taken.load(std::memory_order_acquire) == Ring::kSlots) return false;",
        "",
        "burst",
    ),
    PluginMutant(
        "signal_is_used_before_it_is_read",
        "signals.cpp",
        "  synchronize();\n  return *pinned_;",
        "  return *pinned_;",
    ),
    PluginMutant("mappings_are_kept", "memory.cpp", "if (is_mapped_) driver()", "if (false) driver()"),
    PluginMutant(
        "leaving_is_not_announced",
        "connection.cpp",
        "peers_[rank_].mailbox->close();",
        "",
        "leaving",
    ),
]
