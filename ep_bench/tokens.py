# SPDX-License-Identifier: Apache-2.0
"""The tokens of all ranks: what dispatch is given of each, and what it must make of it.

Every received row says which token it is. How depends on what happens to rows on their way.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ep_bench.cases import Case
from ep_bench.expect import expect_bits, expect_close
from ep_bench.numbers import RandomRows
from ep_bench.recipes import GROUP, ID_DIGIT, NUM_ID_BITS, NUM_ID_BYTES, NUM_ID_DIGITS, NVFP4_GROUP

Array = npt.NDArray[Any]

_POOL_ROWS = 61
_BLOCK_ROWS = 1024
_LARGEST = 448.0  # number of E4M3
_LARGEST_NVFP4 = 6 * _LARGEST  # number of E2M1 x scale
_LEAST_MAGNITUDE = 1e-4  # groups of smaller elements have the scale of this one


class Rows(NamedTuple):
    """Rows and what belongs to them, ``[n, width]`` each.

    Attributes:
        scales: or None, where rows have none.
    """

    elements: Array
    scales: Array | None = None

    @property
    def parts(self) -> tuple[Array, ...]:
        """Those that there are."""
        return (self.elements,) if self.scales is None else (self.elements, self.scales)

    def split(self, count: int) -> tuple[Rows, Rows]:
        """The first rows, and the others."""
        return Rows(*(part[:count] for part in self.parts)), Rows(*(part[count:] for part in self.parts))


class Tokens(Protocol):
    """The tokens of a case."""

    def rows(self, token_ids: Array) -> Rows:
        """What dispatch is given of these tokens."""

    def identify(self, received: Rows) -> Array:
        """Which token each received row says it is; -1 if it says nothing sensible."""

    def check(self, received: Rows, token_ids: Array, what: str) -> None:
        """Raises WrongData if ``received`` is not what these tokens must become."""


class PlainTokens:
    """Rows that arrive as they are. They open with the token's number in three digits."""

    def __init__(self, case: Case, random: RandomRows) -> None:
        self._case, self._random = case, random

    def rows(self, token_ids: Array) -> Rows:
        return Rows(np.asarray(self._all[token_ids]))

    @cached_property
    def _all(self) -> Array:
        numbers = np.arange(self._case.most_tokens)
        rows = self._random.rows(numbers)
        for digit in range(NUM_ID_DIGITS):
            rows[:, digit] = numbers // ID_DIGIT**digit % ID_DIGIT
        return rows

    def identify(self, received: Rows) -> Array:
        digits = received.elements[:, :NUM_ID_DIGITS].astype(np.float64)
        sane = ((digits >= 0) & (digits < ID_DIGIT) & (digits == np.floor(digits))).all(axis=1)
        numbers = np.where(sane[:, None], digits, 0) @ (float(ID_DIGIT) ** np.arange(NUM_ID_DIGITS))
        return np.where(sane & (numbers < self._case.most_tokens), numbers, -1).astype(np.int64)

    def check(self, received: Rows, token_ids: Array, what: str) -> None:
        expect_bits(received.elements, self.rows(token_ids).elements, f"{what}: row")


class OpaqueTokens:
    """Rows and scales that the caller has quantized: random bytes, which arrive to the bit. Rows open with
    the token's number in binary."""

    def __init__(self, case: Case) -> None:
        self._case = case
        random = np.random.default_rng([case.seed, case.hidden])
        parts = (case.sent.elements, case.sent.scales)
        self._pools = [random.bytes(_POOL_ROWS * part.num_bytes) for part in parts if part is not None]

    def rows(self, token_ids: Array) -> Rows:
        elements, scales = (self._bytes(pool, token_ids) for pool in self._pools)
        elements[:, :NUM_ID_BYTES] = token_ids.astype("<u4")[:, None].view(np.uint8)
        formats = self._case.sent
        assert formats.scales is not None
        return Rows(elements.view(formats.elements.dtype), scales.view(formats.scales.dtype))

    @staticmethod
    def _bytes(pool: bytes, token_ids: Array) -> Array:
        """Each token's bytes: a row of the pool, all raised by as much as the token's number says."""
        rows = np.frombuffer(pool, np.uint8).reshape(_POOL_ROWS, -1)
        return np.asarray(
            rows[token_ids % _POOL_ROWS] + (token_ids // _POOL_ROWS % 256).astype(np.uint8)[:, None]
        )

    def identify(self, received: Rows) -> Array:
        opening = np.ascontiguousarray(received.elements).view(np.uint8)[:, :NUM_ID_BYTES]
        numbers = np.ascontiguousarray(opening).view("<u4")[:, 0].astype(np.int64)
        return np.where(numbers < self._case.most_tokens, numbers, -1)

    def check(self, received: Rows, token_ids: Array, what: str) -> None:
        wanted = self.rows(token_ids)
        assert received.scales is not None
        assert wanted.scales is not None
        expect_bits(received.elements, wanted.elements, f"{what}: row")
        expect_bits(received.scales, wanted.scales, f"{what}: scales")


class QuantizedTokens:
    """bf16 rows that arrive as E4M3 with scales. They open with the token's number in bits, 1 and -1, since
    signs survive."""

    def __init__(self, case: Case, random: RandomRows) -> None:
        self._case, self._random = case, random

    def rows(self, token_ids: Array) -> Rows:
        rows = self._random.rows(token_ids)
        rows[:, :NUM_ID_BITS] = 1 - 2 * (token_ids[:, None] >> np.arange(NUM_ID_BITS) & 1)
        return Rows(rows)

    def identify(self, received: Rows) -> Array:
        elements, scales = (part[:, :NUM_ID_BITS].astype(np.float64) for part in received.parts)
        opening = elements * scales[:, :1]
        with np.errstate(invalid="ignore"):
            sane = (np.abs(np.abs(opening) - 1) <= 1 / 8).all(axis=1)
        numbers = (opening < 0) @ (1 << np.arange(NUM_ID_BITS))
        return np.where(sane & (numbers < self._case.most_tokens), numbers, -1)

    def check(self, received: Rows, token_ids: Array, what: str) -> None:
        """Scales must be right to 2^-20, numbers within the error of quantizing: it is done in float32."""
        for first in range(0, len(token_ids), _BLOCK_ROWS):  # float64 takes more room than the rows
            block = slice(first, first + _BLOCK_ROWS)
            exact = self.rows(token_ids[block]).elements.astype(np.float64)
            elements, scales = (part[block].astype(np.float64) for part in received.parts)
            wanted = scales_of(exact)
            expect_close(scales, wanted, wanted * 2.0**-20, f"{what}: scales", first)
            allowed = quantization_error(exact) * (1 + 2.0**-16)
            numbers = elements * np.repeat(scales, GROUP, axis=1)
            expect_close(numbers, exact, allowed, f"{what}: number x scale", first)


def tokens_of(case: Case, random: RandomRows) -> Tokens:
    """The tokens of a case."""
    if case.recipe.quantizes_dispatch:
        return QuantizedTokens(case, random)
    return PlainTokens(case, random) if case.sent.scales is None else OpaqueTokens(case)


def scales_of(rows: Array) -> Array:
    """``[n, H / 128]``: the scale that each group of elements gets when the library quantizes it."""
    most = np.abs(rows).reshape(len(rows), rows.shape[1] // GROUP, GROUP).max(axis=2)
    return np.asarray(np.maximum(most, _LEAST_MAGNITUDE) / _LARGEST)


def quantization_error(rows: Array) -> Array:
    """How far from an element its number times its scale may be: half of E4M3's last place."""
    return np.maximum(np.abs(rows) / 16, np.repeat(scales_of(rows), GROUP, axis=1) / 1024)


def global_scales(rows: Array) -> Array:
    """``[n]`` float32: the global scale of each row for NVFP4."""
    return np.asarray(_LARGEST_NVFP4 / np.abs(rows.astype(np.float64)).max(axis=1), np.float32)


def nvfp4_error(rows: Array, limits: Array) -> Array:
    """The same of NVFP4, where ``limits`` ``[n]`` are the largest magnitudes by the global scales: half of
    E2M1's last place, with a scale that is rounded itself and may be too small for E4M3."""
    groups = np.abs(rows).reshape(len(rows), rows.shape[1] // NVFP4_GROUP, NVFP4_GROUP)
    most = np.repeat(groups.max(axis=2), NVFP4_GROUP, axis=1)
    return np.maximum(np.maximum(np.abs(rows) / 5, most / 22), limits[:, None] / 450_000)
