# SPDX-License-Identifier: Apache-2.0
"""What crosses each link: the pieces of an operation, for the tokens of a routing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nccl_ep.enums import Operation
from nccl_ep.model.pieces import TrafficPath, TrafficPiece
from nccl_ep.model.tokens import Counts, Tokens


@dataclass(frozen=True)
class Links:
    """What ranks send to one another in one operation. All are ``[source rank, destination rank]``.

    Attributes:
        nvlink_bytes: inside the LSA teams.
        rail_bytes: between them, through the network.
        rail_messages: the puts and signals that carry those.
    """

    nvlink_bytes: Counts
    rail_bytes: Counts
    rail_messages: Counts


def links_of(pieces: Sequence[TrafficPiece], tokens: Tokens) -> dict[Operation, Links]:
    """What every operation sends over every link."""
    links: dict[Operation, Links] = {}
    for piece in pieces:
        shape = (tokens.num_ranks, tokens.num_ranks)
        of = links.setdefault(piece.operation, Links(np.zeros(shape), np.zeros(shape), np.zeros(shape)))
        num_bytes, messages = _sent(piece, tokens)
        if piece.path.is_network:
            of.rail_bytes[...] += num_bytes
            of.rail_messages[...] += messages
        else:
            of.nvlink_bytes[...] += num_bytes
    return links


def busiest(sent: Counts) -> float:
    """The most that one rank sends, or receives: links carry both at a time."""
    return float(max(sent.sum(axis=0).max(), sent.sum(axis=1).max()))


def _sent(piece: TrafficPiece, tokens: Tokens) -> tuple[Counts, Counts]:
    """Bytes and messages of a piece, ``[source, destination]``."""
    counts = _tokens_for_peers(piece.path, tokens)
    peers = _peers(piece.path, tokens)
    # What is forwarded is sent once for each team's rank of this place, whatever its tokens are.
    senders = tokens.num_teams if piece.path is TrafficPath.LSA_FORWARDED else 1
    num_bytes = senders * piece.bytes_per_peer + counts @ np.array(piece.bytes_of_token, np.float64)
    num_bytes = np.ceil(num_bytes / piece.alignment) * piece.alignment
    messages = np.full_like(num_bytes, piece.messages_per_peer)
    if piece.tokens_per_message:
        messages += np.ceil(counts[..., 1:].sum(axis=-1) / piece.tokens_per_message)
    num_bytes, messages = num_bytes * peers, messages * peers
    return (num_bytes.T, messages.T) if piece.to_home else (num_bytes, messages)


def _tokens_for_peers(path: TrafficPath, tokens: Tokens) -> Counts:
    """``[rank, peer, top-k + 1]``: the tokens that the rank sends, by what ``bytes_of_token`` asks for."""
    num_teams, size = tokens.num_teams, tokens.team_size
    if path in (TrafficPath.LSA, TrafficPath.NETWORK):
        return tokens.at_ranks
    counts = np.zeros(tokens.at_ranks.shape)
    by_place = counts.reshape(num_teams, size, num_teams, size, -1)
    if path in (TrafficPath.RAIL, TrafficPath.RAIL_FOR_EACH):
        at_teams = tokens.at_teams
        if path is TrafficPath.RAIL_FOR_EACH:
            at_teams = tokens.at_ranks.reshape(tokens.num_ranks, num_teams, size, -1).sum(axis=2)
        for place in range(size):
            by_place[:, place, :, place] = at_teams.reshape(num_teams, size, num_teams, -1)[:, place]
    else:
        forwarded = tokens.at_ranks.reshape(by_place.shape).sum(axis=0)  # [place, team, place, ...]
        for team in range(num_teams):
            by_place[team, :, team] = forwarded[:, team]
    return counts


def _peers(path: TrafficPath, tokens: Tokens) -> Counts:
    """``[rank, rank]``: 1 where the second is a peer of the first."""
    ranks = np.arange(tokens.num_ranks)
    team, place = np.divmod(ranks, tokens.team_size)
    same_team, same_place = team[:, None] == team[None, :], place[:, None] == place[None, :]
    if path is TrafficPath.NETWORK:
        peers = ~same_team
    elif path.is_network:
        peers = ~same_team & same_place
    else:
        peers = same_team & ~same_place
    return np.asarray(peers, np.float64)
