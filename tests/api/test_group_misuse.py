# SPDX-License-Identifier: Apache-2.0
"""A group that cannot be: the code, and a message with the field, its value and what was expected."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import nccl_ep as ep
import pytest
from nccl_ep import sim

GOOD = ep.GroupConfig(num_experts=4, max_dispatch_tokens_per_rank=4, max_token_bytes=64)
LONE_ALLOC = ep.AllocFn(lambda out, size, context: 2)
LONE_FREE = ep.FreeFn(lambda ptr, context: 0)

# changes to GOOD, exception, what the message says
MISUSES = [
    ({"algorithm": 7}, ep.InvalidArgument, r"config\.algorithm.*7.*expected"),
    ({"num_experts": 0}, ep.InvalidArgument, r"config\.num_experts.*\b0\b.*expected"),
    ({"num_experts": 3}, ep.InvalidArgument, r"config\.num_experts.*\b3\b.*multiple.*2"),
    ({"num_experts": 4_000_000_000}, ep.InvalidArgument, r"config\.num_experts.*4000000000.*expected"),
    (
        {"max_dispatch_tokens_per_rank": 0},
        ep.InvalidArgument,
        r"max_dispatch_tokens_per_rank.*\b0\b.*expected",
    ),
    ({"max_token_bytes": 0}, ep.InvalidArgument, r"config\.max_token_bytes.*\b0\b.*expected"),
    (
        {"max_token_bytes": 1 << 31},
        ep.InvalidArgument,
        r"config\.max_token_bytes.*2147483648.*at most 1073741824",
    ),
    (
        {"max_dispatch_tokens_per_rank": 1 << 31, "max_token_bytes": 1 << 20},
        ep.InvalidArgument,
        r"max_dispatch_tokens_per_rank.*is 2147483648 on 2 ranks with 1048576 bytes.*at most 2\^47",
    ),
    ({"num_topk": 5}, ep.InvalidArgument, r"config\.num_topk.*\b5\b.*expected.*4"),
    ({"max_num_sms": 1000}, ep.InvalidUsage, r"config\.max_num_sms.*1000.*expected at most"),
    (
        {"alloc": ep.AllocConfig(alloc_fn=LONE_ALLOC)},
        ep.InvalidUsage,
        r"config\.alloc.*alloc_fn.*expected both",
    ),
    ({"alloc": ep.AllocConfig(free_fn=LONE_FREE)}, ep.InvalidUsage, r"config\.alloc.*free_fn.*expected both"),
    (
        {"exact_combine": True},
        ep.InvalidArgument,
        r"config\.num_topk.*\b0\b.*expected the largest top-k with config\.exact_combine",
    ),
    ({"zero_copy": 9}, ep.InvalidArgument, r"config\.zero_copy.*9.*expected"),
    ({"overflow_policy": 9}, ep.InvalidArgument, r"config\.overflow_policy.*9.*expected"),
    ({"rdma_buffer_size": 1}, ep.InvalidUsage, r"config\.rdma_buffer_size.*\b1\b.*expected.*at least"),
]


# The same for high throughput
HT = {"algorithm": ep.Algorithm.HIGH_THROUGHPUT}
HT_MISUSES = [
    ({"max_token_bytes": 24}, ep.InvalidArgument, r"config\.max_token_bytes.*24.*multiple of 16"),
    (
        {"max_recv_tokens_per_rank": 3},
        ep.InvalidArgument,
        r"config\.max_recv_tokens_per_rank.*\b3\b.*at least 4 = max_dispatch_tokens_per_rank",
    ),
    (
        {"overflow_policy": ep.OverflowPolicy.DROP},
        ep.InvalidArgument,
        r"config\.overflow_policy.*DROP.*max_recv_tokens_per_rank",
    ),
    (
        {"max_dispatch_tokens_per_rank": 3_000_000_000},
        ep.InvalidArgument,
        r"config\.max_dispatch_tokens_per_rank.*3000000000.*6000000000 tokens.*expected at most 4294967295",
    ),
    ({"num_experts": 100_000}, ep.InvalidUsage, r"num_experts is 100000.*shared memory.*expected at most"),
    ({"num_topk": 5}, ep.InvalidArgument, r"config\.num_topk.*\b5\b.*expected.*4"),
]
MISUSES += [(HT | changes, error, says) for changes, error, says in HT_MISUSES]


def name_of(row: Any) -> str:
    changes = {name: value for name, value in row[0].items() if name != "algorithm"}
    algorithm = "ht: " if "algorithm" in row[0] and changes else ""
    name, value = next(iter((changes or row[0]).items()))
    if isinstance(value, ep.AllocConfig):  # whose addresses differ from run to run
        value = "alloc_fn" if value.alloc_fn else "free_fn"
    return f"{algorithm}{name}={value}"


@pytest.mark.parametrize(("changes", "error", "says"), MISUSES, ids=[name_of(row) for row in MISUSES])
def test_a_field_that_is_wrong(make_cluster: Any, changes: Any, error: type[ep.Error], says: str) -> None:
    def main(rank: Any) -> Any:
        before = usage(simulated, rank)
        with pytest.raises(ep.Error) as failure:
            ep.Group(rank.comm, replace(GOOD, **changes))
        rank.barrier()
        assert usage(simulated, rank) == before
        return failure.value

    cluster = make_cluster(2)
    simulated = getattr(cluster, "sim", None)
    for failure in cluster.run(main):
        assert type(failure) is error
        assert re.search(says, failure.message), failure.message


def test_ranks_that_disagree(make_cluster: Any) -> None:
    def main(rank: Any) -> Any:
        config = replace(GOOD, max_token_bytes=64 * (1 + rank.rank))
        with pytest.raises(ep.InvalidArgument) as failure:
            ep.Group(rank.comm, config)
        return failure.value.message

    first, second = make_cluster(2).run(main)
    assert re.search(r"max_token_bytes.*64 here.*128 on rank 1", first)
    assert re.search(r"max_token_bytes.*128 here.*64 on rank 0", second)


def test_ranks_that_disagree_about_the_budget(make_cluster: Any) -> None:
    def main(rank: Any) -> Any:
        config = replace(GOOD, **HT, max_recv_tokens_per_rank=8 * (1 + rank.rank))
        with pytest.raises(ep.InvalidArgument) as failure:
            ep.Group(rank.comm, config)
        return failure.value.message

    first, second = make_cluster(2).run(main)
    assert re.search(r"max_recv_tokens_per_rank.*8 here.*16 on rank 1", first)
    assert re.search(r"max_recv_tokens_per_rank.*16 here.*8 on rank 0", second)


def test_ranks_that_disagree_on_dropping(make_cluster: Any) -> None:
    """AUTO and TRAP are the same."""
    policies = [ep.OverflowPolicy.AUTO, ep.OverflowPolicy.TRAP, ep.OverflowPolicy.DROP]

    def main(rank: Any) -> str:
        config = replace(GOOD, **HT, max_recv_tokens_per_rank=8)
        ep.Group(rank.comm, replace(config, overflow_policy=policies[rank.rank])).destroy()
        with pytest.raises(ep.InvalidArgument) as failure:
            ep.Group(rank.comm, replace(config, overflow_policy=policies[rank.rank + 1]))
        return failure.value.message

    first, second = make_cluster(2).run(main)
    assert re.search(r"overflow_policy.*1 here.*2 on rank 1", first)
    assert re.search(r"overflow_policy.*2 here.*1 on rank 0", second)


def test_a_rank_that_refuses_stops_the_others(make_cluster: Any) -> None:
    def main(rank: Any) -> Any:
        config = replace(GOOD, max_num_sms=1000 if rank.rank == 1 else 0)
        with pytest.raises(ep.InvalidUsage) as failure:
            ep.Group(rank.comm, config)
        return failure.value.message

    messages = make_cluster(2).run(main)
    assert "rank 1" in messages[0]
    assert "max_num_sms" in messages[1]


def test_a_good_group_after_a_bad_one(make_cluster: Any) -> None:
    def main(rank: Any) -> bool:
        with pytest.raises(ep.InvalidArgument):
            ep.Group(rank.comm, replace(GOOD, num_experts=3))
        with ep.Group(rank.comm, GOOD) as group:
            return group.async_error() is None

    assert make_cluster(2).run(main) == [True, True]


def test_no_communicator() -> None:
    with pytest.raises(ep.InvalidArgument, match="comm"):
        ep.Group(0, GOOD)


def refusals(cluster: Any, config: ep.GroupConfig) -> list[str]:
    """What each rank hears, which keeps nothing of the group."""

    simulated = cluster.sim

    def main(rank: Any) -> str:
        before = usage(simulated, rank)
        with pytest.raises(ep.InvalidUsage) as failure:
            ep.Group(rank.comm, config)
        rank.barrier()
        assert usage(simulated, rank) == before
        return str(failure.value.message)

    messages: list[str] = cluster.run(main)
    return messages


@pytest.mark.sim_only
@pytest.mark.parametrize("algorithm", list(ep.Algorithm), ids=lambda algorithm: algorithm.name)
def test_several_lsa_teams_need_a_network(make_cluster: Any, algorithm: ep.Algorithm) -> None:
    config = replace(GOOD, algorithm=algorithm)
    for message in refusals(make_cluster(4, nodes=2, network=False), config):
        assert "4 ranks form LSA teams of 2, and there is no network between them" in message
        assert "ncclEpSimConfig_t.network is OFF, expected ON" in message


@pytest.mark.sim_only
def test_low_latency_needs_more_than_rails(make_cluster: Any) -> None:
    for message in refusals(make_cluster(4, nodes=2, rails_only=True), GOOD):
        assert "along rails only, which is enough for High Throughput" in message
        assert "ncclEpSimConfig_t.network is RAILS, expected ON" in message


@pytest.mark.sim_only
def test_masks_across_teams_need_more_than_rails(make_cluster: Any) -> None:
    config = replace(GOOD, algorithm=ep.Algorithm.HIGH_THROUGHPUT, enable_mask=True)
    for message in refusals(make_cluster(4, nodes=2, rails_only=True), config):
        assert "along rails only" in message


@pytest.mark.sim_only
def test_one_lsa_team_needs_no_network(make_cluster: Any) -> None:
    def main(rank: Any) -> bool:
        with ep.Group(rank.comm, GOOD) as group:
            return group.async_error() is None

    assert make_cluster(2, network=False).run(main) == [True, True]


def usage(simulated: sim.Cluster | None, rank: Any) -> Any:
    """What is allocated, where that can be known."""
    return simulated.usage(rank.rank) if simulated else None
