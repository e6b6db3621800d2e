# SPDX-License-Identifier: Apache-2.0
"""Scenarios for the Low-Latency kernels that use the network."""

from __future__ import annotations

from collections.abc import Callable

import ll
from ll_scenarios import chained, idle_receiver, make_problems, silent_in_between

FEW = ll.Shape(num_ranks=4, num_topk=3, hidden=320, max_tokens=6, tokens=(6, 3, 5, 4))
MANY = ll.Shape(num_ranks=3, num_topk=3, hidden=640, max_tokens=40, tokens=(40, 33, 36))

SCENARIOS: dict[str, Callable[[int], None]] = {
    "expert-major": lambda seed: chained(seed, ll.EM, make_problems(seed, FEW), nodes=2),
    "rank-major": lambda seed: chained(seed, ll.RM, make_problems(seed, FEW), nodes=2),
    "expert-major-many": lambda seed: chained(seed, ll.EM, make_problems(seed, MANY), nodes=3),
    "idle-receiver": lambda seed: idle_receiver(seed, nodes=3),
    "silent-home": lambda seed: silent_in_between(seed, ll.EM, FEW, named=False, nodes=4),
    "silent-expert": lambda seed: silent_in_between(seed, ll.RM, FEW, nodes=4),
}
