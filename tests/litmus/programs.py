# SPDX-License-Identifier: Apache-2.0
"""The litmus programs: what each needs and how it must end.

Correct programs end clean, on simulated and on real GPUs. The others have one mistake each, which the
simulator must see in every seed; what they do on a real GPU is anybody's guess, so they do not run there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(Enum):
    """How a run ended."""

    CLEAN = "clean"
    RACE = "race"
    DEADLOCK = "deadlock"
    FAULT = "fault"
    WRONG = "wrong data"


CLEAN = frozenset({Outcome.CLEAN})
RACE = frozenset({Outcome.RACE})
DEADLOCK = frozenset({Outcome.DEADLOCK})
FAULT = frozenset({Outcome.FAULT})
WRONG = frozenset({Outcome.WRONG})


@dataclass(frozen=True)
class Program:
    """A kernel ``litmus_<name>`` and how it must end."""

    name: str
    ends: frozenset[Outcome] = CLEAN
    ranks: int = 1
    blocks: int = 1
    threads: int = 32
    shared_bytes: int = 0
    after: str | None = None  # a kernel that is launched first on every rank
    says: str = ""  # part of the report of a race
    options: dict[str, object] = field(default_factory=dict)  # of the simulated cluster
    label: str = ""  # tells runs of one kernel apart

    @property
    def id(self) -> str:
        return f"{self.name}-{self.label}" if self.label else self.name


UNORDERED = "nothing orders these two accesses"
SCOPE = "the scope of a synchronising access leaves the other thread out"
PROXY = "missing fence_proxy_async"
COPY_BYTES = 1024

# Without the checker, stores that are never released never arrive before the flag.
LATE = {"checker": False, "stores": 3}

MESSAGES = [
    Program("message_system", ranks=2),
    Program("message_gpu", blocks=2),
    Program("message_block", threads=64),
    Program("message_relaxed_store", RACE, ranks=2, says=UNORDERED),
    Program("message_relaxed_load", RACE, ranks=2, says=UNORDERED),
    Program("message_release_too_narrow", RACE, ranks=2, says=SCOPE),
    Program("message_acquire_too_narrow", RACE, ranks=2, says=SCOPE),
    Program("message_block_scope_between_blocks", RACE, blocks=2, says=SCOPE),
    Program("message_without_flag", RACE, ranks=2, says=UNORDERED),
    Program("message_relaxed_store", WRONG, ranks=2, options=LATE, label="late"),
    Program("message_release_too_narrow", WRONG, ranks=2, options=LATE, label="late"),
    Program("message_system", ranks=2, options=LATE, label="late"),
    Program("fences", ranks=2),
    Program("fences", ranks=2, options=LATE, label="late"),
    Program("fence_to_acquire", ranks=2),
    Program("fence_missing_at_writer", RACE, ranks=2, says=UNORDERED),
    Program("fence_missing_at_reader", RACE, ranks=2, says=UNORDERED),
    Program("fence_too_narrow", RACE, ranks=2, says=UNORDERED),
    Program("fence_too_narrow", WRONG, ranks=2, options=LATE, label="late"),
    Program("fence_before_data", RACE, ranks=2, says=UNORDERED),
    Program("release_sequence", ranks=2, blocks=2),
    Program("release_sequence_broken_by_store", RACE, ranks=2, blocks=2, says=UNORDERED),
    Program("knowledge_is_passed_on", ranks=2, blocks=2),
    Program("counter", blocks=3, threads=64),
    Program("counter_without_acquire", RACE, blocks=3, threads=64, says=UNORDERED),
    Program("counter_without_release", RACE, blocks=3, threads=64, says=UNORDERED),
    Program("lock", blocks=2, threads=64),
    Program("lock_without_acquire", RACE, blocks=2, threads=64, says=UNORDERED),
    Program("lock_without_release", RACE, blocks=2, threads=64, says=UNORDERED),
    Program("atomics"),
    Program("atomics", ranks=2, label="peer"),
    Program("flag_never_raised", DEADLOCK, ranks=2),
]

WARPS = [
    Program("votes", threads=64),
    Program("shuffles", threads=64),
    Program("sync_warp", threads=64),
    Program("sync_warp_missing", RACE, threads=64, says=UNORDERED),
    Program("shuffle_orders_nothing", RACE, threads=64, says=UNORDERED),
    Program("ballot_orders_nothing", RACE, threads=64, says=UNORDERED),
    Program("warp_pushes_row", ranks=2, threads=128),
    Program("warp_pushes_row_unsynchronised", RACE, ranks=2, threads=128, says=UNORDERED),
]

BLOCKS = [
    Program("identity", ranks=2, blocks=3, threads=96),
    Program("sync_block", blocks=2, threads=128),
    Program("sync_block_missing", RACE, blocks=2, threads=128, says=UNORDERED),
    Program("all_in_block", blocks=2, threads=128),
    Program("bar_sync", blocks=2, threads=128),
    Program("bar_sync_half", RACE, threads=128, says=UNORDERED),
    Program("named_barriers", threads=64),
    Program("bar_arrive_orders_nothing", RACE, threads=64, says=UNORDERED),
    Program("bar_arrive_before_writing", RACE, threads=64, says=UNORDERED),
    Program("barrier_not_reached", DEADLOCK, threads=64),
    Program("shared_memory", blocks=3, threads=128, shared_bytes=512),
    Program("shared_accesses", blocks=2, threads=64, shared_bytes=1024),
    Program("clock_advances", blocks=2),
]


def relay(**where: Any) -> list[Program]:
    """A row from bulk copy to bulk copy between two places, and what can go wrong on its way."""
    where |= {"shared_bytes": COPY_BYTES, "after": "fill_input"}
    mistakes = ["unfenced", "fenced_by_writer", "fenced_before_acquiring"]
    wrong = [Program(f"bulk_relay_{mistake}", RACE, says=PROXY, **where) for mistake in mistakes]
    return [Program("bulk_relay", **where), *wrong]


BULK = [
    Program("mbar_phases", blocks=2, threads=128),
    Program("mbar_not_awaited", RACE, threads=128, says=UNORDERED),
    Program("mbar_wrong_parity", RACE, threads=128, says=UNORDERED),
    Program("mbar_too_few_arrivals", DEADLOCK, threads=128),
    Program("mbar_init_not_shown", RACE | FAULT, threads=128),
    Program("bulk_load", threads=64, blocks=2, shared_bytes=2 * COPY_BYTES, after="fill_input"),
    Program(
        "bulk_load_not_awaited",
        RACE,
        threads=64,
        shared_bytes=2 * COPY_BYTES,
        after="fill_input",
        says=UNORDERED,
    ),
    Program(
        "bulk_load_mbar_not_fenced",
        RACE,
        threads=64,
        shared_bytes=2 * COPY_BYTES,
        after="fill_input",
        says="missing fence_mbar_init",
    ),
    Program(
        "bulk_load_into_stage_in_use",
        RACE | DEADLOCK,  # or the waiting side misses a phase
        threads=64,
        shared_bytes=2 * COPY_BYTES,
        after="fill_input",
        says=UNORDERED,
    ),
    Program("bulk_store", ranks=2, shared_bytes=COPY_BYTES),
    Program("bulk_store_no_proxy_fence", RACE, ranks=2, shared_bytes=COPY_BYTES, says=PROXY),
    Program("bulk_store_fence_before_writing", RACE, ranks=2, shared_bytes=COPY_BYTES, says=PROXY),
    Program("bulk_store_source_reused", RACE, ranks=2, shared_bytes=COPY_BYTES),
    Program("bulk_store_flag_after_read_wait", RACE, ranks=2, shared_bytes=COPY_BYTES, says=UNORDERED),
    Program("bulk_store_one_group_too_many", RACE, ranks=2, shared_bytes=COPY_BYTES, says=UNORDERED),
    Program("bulk_store_left_unread", RACE | FAULT, ranks=2, shared_bytes=COPY_BYTES),
    Program("bulk_groups", shared_bytes=2 * COPY_BYTES),
    Program("bulk_forward", ranks=2, shared_bytes=COPY_BYTES, after="fill_input"),
    Program("bulk_load_of_acquired_row", ranks=2, shared_bytes=COPY_BYTES),
    Program("bulk_load_of_acquired_row_unfenced", RACE, ranks=2, shared_bytes=COPY_BYTES, says=PROXY),
    *relay(blocks=2, label="blocks"),
    *relay(ranks=2, label="ranks"),
    Program("bulk_load_of_own_store", blocks=2, threads=64, shared_bytes=2 * COPY_BYTES, after="fill_input"),
]

PEERS = [
    Program("widths", ranks=2),
    Program("load_of_input", threads=64, after="fill_input"),
    Program("units", ranks=2),
    Program("unit_publishes_nothing", RACE, ranks=2, says=UNORDERED),
    Program("unit_written_with_ordinary_store", RACE, ranks=2, says=UNORDERED),
    Program("all_to_all_rows", ranks=4, blocks=2, threads=64),
    Program("all_to_all_rows", ranks=4, blocks=2, threads=64, options=LATE, label="late"),
    # The reuse either meets the reading, or comes first and is read.
    Program("all_to_all_rows_reused_unasked", RACE | WRONG, ranks=2, blocks=2, threads=64),
]

LINES = [
    Program("lines_are_never_torn", ranks=2, blocks=2, threads=64),
    Program("lines_are_never_torn", ranks=2, blocks=2, threads=64, options=LATE, label="late"),
    Program("line_sent_as_units", WRONG, ranks=2, blocks=2, threads=64),
    Program("lines_of_some_lanes"),
    Program("lines_of_some_lanes", ranks=2, label="peer"),
    Program("lines_anywhere", ranks=4, threads=64),
    Program("lines_come_one_by_one", ranks=6),
    Program("lines_come_one_by_one", ranks=6, options=LATE, label="late"),
    Program("line_publishes_nothing", RACE, ranks=2, says=UNORDERED),
    Program("line_publishes_nothing", WRONG, ranks=2, options=LATE, label="late"),
    Program("line_orders_nothing_in_a_warp", RACE, says=UNORDERED),
    Program("line_written_with_ordinary_store", RACE, ranks=2, says=UNORDERED),
]

NUMBERS = [
    Program("bf16_from_all_floats_of_interest", threads=64),
    Program("fp16_from_all_floats_of_interest", threads=64),
    Program("e4m3_from_all_floats_of_interest", threads=64),
    Program("e2m1_from_all_floats_of_interest", threads=64),
    Program("floats_from_all_e2m1_numbers", threads=64),
    Program("bf16_and_fp16_to_float_and_back", threads=64),
    Program("the_larger_magnitude", threads=64),
    Program("single_operations", threads=64),
]

# Each rank is an LSA team of its own.
NETWORK = [
    Program("put_strong", ranks=2, threads=64),
    Program("put_strong", ranks=4, threads=64, label="ring"),
    Program("signal_strong", ranks=2, threads=64),
    Program("put_weak", ranks=2, threads=64),
    Program("put_from_all_lanes", ranks=2, blocks=2, threads=64),
    Program("contexts", ranks=2, threads=128),
    Program("put_to_itself", ranks=2, threads=64),
    Program("put_value", ranks=2),
    Program("words", ranks=2, threads=64),
    Program("reset", ranks=2),
    Program("reset", ranks=4, label="ring"),
    Program("source_reused_after_flush", ranks=2, threads=64),
    Program("source_reused_after_counter", ranks=2, threads=64),
    Program("source_reused_after_answer", ranks=2, threads=64),
    Program("get", ranks=2, threads=64),
    Program("get", ranks=4, threads=64, label="ring"),
    Program("network_all_to_all", ranks=2, blocks=2, threads=64),
    Program("network_all_to_all", ranks=4, blocks=4, threads=64, label="ring"),
    Program("weak_for_earlier_puts", RACE, ranks=2, says=UNORDERED),
    Program("signal_of_another_context", RACE, ranks=2, says=UNORDERED),
    Program("put_of_what_others_write", RACE, ranks=2, threads=64, says=UNORDERED),
    Program("source_reused_unasked", RACE, ranks=2, threads=64, says=UNORDERED),
    Program("get_not_flushed", RACE, ranks=2, threads=64, says=UNORDERED),
]

PROGRAMS = [*MESSAGES, *WARPS, *BLOCKS, *BULK, *PEERS, *LINES, *NUMBERS]
