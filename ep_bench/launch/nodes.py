# SPDX-License-Identifier: Apache-2.0
"""Nodes on GPUs: how one host becomes several, and whether ranks are on as many as was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nccl_ep import loopback

from ep_bench.exits import UsageError

_PLUGIN, _PLUGIN_FILE = "NCCL_RMA_PLUGIN", "librma_loopback.so"


def is_loopback(environment: Mapping[str, str]) -> bool:
    """Whether NCCL is told there to use the loopback plugin, which makes nodes of one host's GPUs."""
    return Path(environment.get(_PLUGIN, "")).name == _PLUGIN_FILE


def variables_for(num_nodes: int | None, num_ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What ranks that are started here need in their environment to be on so many nodes.

    Nothing for one node or any number, and nothing where the loopback plugin is in the environment already:
    whoever put it there has decided.
    """
    if num_nodes is None or num_nodes == 1 or is_loopback(environment):
        return {}
    try:
        return loopback.environment(num_nodes, num_ranks)
    except (ValueError, FileNotFoundError) as error:
        raise UsageError(f"--nodes {num_nodes}: {error}") from None


def count_nodes(hosts: Sequence[str], lsa_team_size: int, environment: Mapping[str, str]) -> int:
    """The hosts that ranks are on, given by rank; under the loopback plugin, nodes that it makes of one."""
    return len(hosts) // lsa_team_size if is_loopback(environment) else len(set(hosts))


def check_nodes(wanted: int | None, num_ranks: int, lsa_team_size: int) -> None:
    """UsageError if NCCL sees other nodes than were asked for. A node is an LSA team."""
    found = num_ranks // lsa_team_size
    if wanted not in (None, found):
        raise UsageError(
            f"--nodes {wanted}: expected {found}, for NCCL's LSA teams have {lsa_team_size} of the "
            f"{num_ranks} ranks. Ranks that a launcher started are on the nodes where it put them; to make "
            f"several of one host, start them with python -m nccl_ep.loopback --nodes {wanted} -- COMMAND"
        )
