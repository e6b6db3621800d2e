# SPDX-License-Identifier: Apache-2.0
"""Time from bytes: a bound that links set, and an estimate with the terms that were measured on four H200.

``estimate = fixed + max(flight, NVLink, rail)``, where NVLink is the busiest rank's bytes at the push rate,
and rail the latency of each trip that must wait for the one before, plus the bytes or the messages of the
busiest rank, whichever take longer. docs/model.md compares it with what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from nccl_ep.enums import Algorithm, Layout, Operation
from nccl_ep.model.links import Links, busiest

H200_NVLINK_GBPS = 341.0
"""What kernels reach that push rows to three others at a time: measured, docs/performance-notes.md."""

NDR_RAIL_GBPS = 50.0
"""Of one 400 Gb/s adapter for each GPU, each way: its line rate, without what protocols take."""

GIN_LATENCY_US = 8.35
"""From a put to the signal seen by the other GPU: half of the round trip of 16.7 µs that NCCL's authors give
for small messages between H100s, arXiv:2511.15076."""

MESSAGE_US = 0.01
"""An adapter's time for a message, however small. Assumed, not measured."""


@dataclass(frozen=True)
class Machine:
    """What a cluster's links do.

    Attributes:
        nvlink_gbps: GB/s that a rank pushes to the others of its LSA team, and receives as well.
        rail_gbps: GB/s that a rank sends through the network, and receives as well.
        rail_latency_us: from a put to the receiver's seeing its signal.
        message_us: a put's or signal's own share of the adapter's time.
    """

    nvlink_gbps: float = H200_NVLINK_GBPS
    rail_gbps: float = NDR_RAIL_GBPS
    rail_latency_us: float = GIN_LATENCY_US
    message_us: float = MESSAGE_US


@dataclass(frozen=True)
class Terms:
    """What the kernels of an operation take besides their bytes.

    Attributes:
        fixed_us: the start, the first look at the routing, the last copy or sum.
        flight_us: the least that data takes to arrive and be noticed, where there is little of it.
        nvlink_share: how much of the links' rate is reached.
        rail_trips: across teams, how many latencies follow one another.
    """

    fixed_us: float
    flight_us: float = 0.0
    nvlink_share: float = 1.0
    rail_trips: int = 1


@dataclass(frozen=True)
class Time:
    """Of one operation, in µs.

    Attributes:
        bound_us: no less with these bytes at these rates.
        estimate_us: what is expected.
        limit: what the estimate grows with: ``NVLink``, ``rail``, ``messages`` or ``latency``.
    """

    bound_us: float
    estimate_us: float
    limit: str


LL, HT = Algorithm.LOW_LATENCY, Algorithm.HIGH_THROUGHPUT
EM, RM, FLAT = Layout.EXPERT_MAJOR, Layout.RANK_MAJOR, Layout.FLAT

_FLAG_FLIGHT_US = 1.3
"""Half of a flag's round trip between two H200 over NVLink."""

TERMS = {
    (LL, EM, Operation.DISPATCH): Terms(5.0, 3.1),  # rows are placed when the routes are there
    (LL, EM, Operation.COMBINE): Terms(7.2, _FLAG_FLIGHT_US, rail_trips=2),  # weights, then sums
    (LL, RM, Operation.DISPATCH): Terms(4.0, 3.1),
    (LL, RM, Operation.COMBINE): Terms(5.5, _FLAG_FLIGHT_US),
    (HT, FLAT, Operation.UPDATE): Terms(19.2, rail_trips=2),  # counts, then lists
    (HT, FLAT, Operation.DISPATCH): Terms(12.0),
    (HT, FLAT, Operation.COMBINE): Terms(22.0),
    (HT, EM, Operation.UPDATE): Terms(19.2, rail_trips=2),
    (HT, EM, Operation.DISPATCH): Terms(12.0, nvlink_share=0.943),  # copies for several experts
    (HT, EM, Operation.COMBINE): Terms(22.0),
}
"""Fitted to measured times; docs/model.md shows those, and the errors that are left."""


def time_of(links: Links, terms: Terms, machine: Machine) -> Time:
    """How long an operation takes that sends this.

    Args:
        links: what it sends.
        terms: of the operation, see :data:`TERMS`.
        machine: what it is sent over.
    """
    nvlink_us = busiest(links.nvlink_bytes) / (1e3 * machine.nvlink_gbps)
    rail_us = busiest(links.rail_bytes) / (1e3 * machine.rail_gbps)
    messages_us = busiest(links.rail_messages) * machine.message_us
    latency_us = terms.rail_trips * machine.rail_latency_us if links.rail_messages.any() else 0.0

    ways = {
        "latency": max(terms.flight_us, latency_us),
        "NVLink": nvlink_us / terms.nvlink_share,
        "rail": latency_us + rail_us if rail_us else 0.0,
        "messages": latency_us + messages_us if messages_us else 0.0,
    }
    limit = max(ways, key=lambda name: ways[name])
    return Time(max(nvlink_us, rail_us), terms.fixed_us + ways[limit], limit)
