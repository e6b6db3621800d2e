# SPDX-License-Identifier: Apache-2.0
"""Which experts each token goes to: generated from a seed, or read from a file."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ep_bench.exits import UsageError
from ep_bench.host import host_memory, in_gib

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Routing:
    """One rank's routes.

    Attributes:
        topk_idx: int64 ``[b, K]``, -1 for no route.
        topk_weights: float32 ``[b, K]``.
    """

    topk_idx: Array
    topk_weights: Array


@dataclass(frozen=True)
class Shape:
    """What a generator fills: every rank has the same number of tokens."""

    num_ranks: int
    num_tokens: int
    num_topk: int
    num_experts: int


def make_routing(spec: str, shape: Shape, seed: int) -> list[Routing]:
    """Routes of all ranks.

    Args:
        spec: ``uniform``; ``zipf:A``, the n-th most popular expert is wanted like 1 / n^A; ``hot:N``, routes
            go to N experts as far as those suffice; or the path of an ``.npz`` file.
        shape: how many of what. For a file, ``file_shape`` says it.
        seed: of the generators.
    """
    if spec.endswith(".npz"):
        return _read(Path(spec), shape)
    check_spec(spec, shape.num_experts)
    _check_room(shape)
    random = np.random.default_rng([seed, shape.num_ranks, shape.num_tokens, shape.num_topk])
    popularity = _log_popularity(spec, shape.num_experts, random)
    return [_draw(popularity, shape, random) for _ in range(shape.num_ranks)]


def check_spec(spec: str, num_experts: int | None = None) -> str:
    """``spec`` itself if it is one, for so many experts if that is said; UsageError if not."""
    if not spec.endswith(".npz"):
        kind, argument = _kind_and_argument(spec)
        if kind == "hot" and num_experts is not None and argument > num_experts:
            raise UsageError(f"--routing {spec}: expected at most the number of experts, {num_experts}")
    return spec


def file_shape(path: str, num_experts: int) -> Shape:
    """The shape of the routes in a file; ``num_tokens`` is the largest of all ranks."""
    tables = _tables(Path(path), "topk_idx")
    if not tables:
        raise UsageError(
            f"--routing {path}: expected an array topk_idx [ranks, tokens, top-k], or topk_idx_0..."
        )
    for rank, table in enumerate(tables):
        if table.ndim != 2:
            raise UsageError(
                f"--routing {path}: topk_idx of rank {rank} is {table.shape}, expected [tokens, top-k]"
            )
    return Shape(len(tables), max(len(table) for table in tables), tables[0].shape[1], num_experts)


def _kind_and_argument(spec: str) -> tuple[str, float]:
    """``uniform`` and 0, ``zipf`` and its exponent, or ``hot`` and how many are."""
    kind, _, argument = spec.partition(":")
    try:
        if kind == "uniform" and not argument:
            return kind, 0.0
        if kind == "zipf" and math.isfinite(float(argument)):
            return kind, float(argument)
        if kind == "hot" and int(argument) > 0:
            return kind, int(argument)
    except ValueError:
        pass
    raise UsageError(
        f"--routing {spec}: expected uniform, zipf:A, hot:N or a file that ends in .npz, where A is a finite "
        f"number and N at least 1"
    )


def _log_popularity(spec: str, num_experts: int, random: np.random.Generator) -> Array:
    kind, argument = _kind_and_argument(spec)
    order = random.permutation(num_experts)  # so that popular experts are spread over the ranks
    if kind == "zipf":
        return np.asarray(-argument * np.log1p(order))
    return np.where(order < argument, 1e3, 0.0)


def _check_room(shape: Shape) -> None:
    """UsageError if this host cannot hold what routes are drawn from: three numbers for each expert of each
    of a rank's tokens."""
    num_bytes = 3 * 8 * shape.num_tokens * shape.num_experts
    if num_bytes > host_memory():
        raise UsageError(
            f"drawing routes of {shape.num_tokens} tokens to {shape.num_experts} experts takes "
            f"{in_gib(num_bytes)}, expected at most the {in_gib(host_memory())} of this host: fewer --tokens "
            f"or --experts"
        )


def _draw(log_popularity: Array, shape: Shape, random: np.random.Generator) -> Routing:
    """K different experts a token: the K largest of log popularity plus Gumbel noise."""
    keys = log_popularity + random.gumbel(size=(shape.num_tokens, shape.num_experts))
    topk_idx = np.argsort(-keys, axis=1)[:, : shape.num_topk].astype(np.int64)
    return Routing(topk_idx, _draw_weights(topk_idx.shape, random))


def _draw_weights(extents: tuple[int, ...], random: np.random.Generator) -> Array:
    weights = 0.1 + random.random(extents)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def _read(path: Path, shape: Shape) -> list[Routing]:
    tables = _tables(path, "topk_idx")
    weights = _tables(path, "topk_weights")
    if weights and len(weights) != len(tables):
        raise UsageError(
            f"--routing {path}: topk_weights are of {len(weights)} ranks, expected {len(tables)}, as topk_idx"
        )
    random = np.random.default_rng(len(tables))
    routings = []
    for rank, table in enumerate(tables):
        _check_table(path, rank, table, shape)
        given = weights[rank] if weights else _draw_weights(table.shape, random)
        routings.append(Routing(table.astype(np.int64), _checked_weights(path, rank, given, table.shape)))
    return routings


def _checked_weights(path: Path, rank: int, weights: Array, extents: tuple[int, ...]) -> Array:
    """float32 weights of a rank; UsageError if they are no numbers, or not as many as there are routes."""
    what = f"--routing {path}: topk_weights of rank {rank}"
    if weights.shape != extents or not np.issubdtype(weights.dtype, np.number):
        raise UsageError(f"{what} are {weights.dtype} {weights.shape}, expected numbers {extents}")
    with np.errstate(over="ignore"):
        rounded = weights.astype(np.float32)
    if not np.isfinite(rounded).all():
        raise UsageError(f"{what} have {rounded[~np.isfinite(rounded)][0]}, expected finite numbers")
    return rounded


def _tables(path: Path, name: str) -> list[Array]:
    """Arrays ``name`` with a rank a row, or ``name_0``, ``name_1``..., which may differ in length."""
    try:
        with open(path, "rb") as opened, np.lib.npyio.NpzFile(opened, allow_pickle=False) as file:
            if name in file:
                return list(np.atleast_1d(file[name]))
            ranks = range(len(file.files))
            return [file[f"{name}_{rank}"] for rank in ranks if f"{name}_{rank}" in file]
    except OSError as error:
        raise UsageError(f"--routing {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"--routing {path}: is no .npz file of arrays: {error}") from None


def _check_table(path: Path, rank: int, table: Array, shape: Shape) -> None:
    what = f"--routing {path}: topk_idx of rank {rank}"
    if table.ndim != 2 or table.shape[1] != shape.num_topk or not np.issubdtype(table.dtype, np.integer):
        raise UsageError(
            f"{what} is {table.dtype} {table.shape}, expected integers [tokens, {shape.num_topk}]"
        )
    if table.size and (table.min() < -1 or table.max() >= shape.num_experts):
        raise UsageError(
            f"{what} has {table.min()} to {table.max()}, expected -1 to {shape.num_experts - 1} (--experts)"
        )
    ordered = np.sort(table, axis=1)
    if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
        raise UsageError(f"{what} names an expert twice for one token, expected different ones")
