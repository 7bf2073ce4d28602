"""Simulated prices as a function of time: any instant, in any order, always the same price.

The logarithm of a price is a Brownian motion, built by Lévy's midpoint displacement (P. Lévy, 1948; as a
sum of tents: Z. Ciesielski, 1961). On a cell of `span` seconds whose ends are known, the midpoint is their
mean plus a normal deviate of variance span / 4; both halves are cells again:

    span 8    0 ─────────────── 4 ─────────────── 8
    span 4    0 ────── 2 ────── 4 ────── 6 ────── 8
    span 2    0 ─ 1 ── 2 ── 3 ─ 4 ── 5 ── 6 ─ 7 ─ 8

so the motion at second t is the sum, over the 25 spans from 2 s to 2**25 s (thirteen months), of
`deviate(cell) * min(t - start, end - t) / sqrt(span)`. The deviate is a hash of (seed, symbol, span, cell):
nothing is remembered, and no instant depends on an earlier call. Every thirteen months
the motion returns to zero, which keeps a symbol near its anchor price for good.
"""

import hashlib
import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stockpulse.market.arrays import Floats, Ints

Hashes = NDArray[np.uint64]

VOLATILITY: Final = 0.30  # standard deviation of a year's log return, the year being traded round the clock
SECONDS_PER_YEAR: Final = 365.25 * 86_400
SCALE: Final = VOLATILITY / math.sqrt(SECONDS_PER_YEAR)  # of the logarithm of a price, per root of a second
OCTAVES: Final = 25  # spans of 2**1 .. 2**25 seconds
BLOCK: Final = 8_192  # points evaluated at a time, so that the temporaries stay in the processor's cache

KNOWN_ANCHORS: Final = {
    "AAPL": 189.70,
    "MSFT": 415.00,
    "GOOG": 172.00,
    "AMZN": 185.00,
    "TSLA": 245.00,
    "NVDA": 875.00,
}

#: The steps of SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)

_DEVIATE_BITS: Final = 10
#: Equally likely normal deviates, looked up by the high bits of a hash.
_DEVIATES: Final[Floats] = np.array(
    [NormalDist().inv_cdf((i + 0.5) / 2**_DEVIATE_BITS) for i in range(2**_DEVIATE_BITS)]
)


def key_of(seed: int, name: str) -> int:
    """Return a 64-bit key of (seed, name), the same in every process."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest(), "little")


def scramble(values: Ints, keys: Hashes) -> Hashes:
    """Return a hash of each (value, key); the two are broadcast against each other."""
    bits = (values.astype(np.uint64) * _GOLDEN) + keys
    bits ^= bits >> np.uint64(30)
    bits *= _FIRST
    bits ^= bits >> np.uint64(27)
    bits *= _SECOND
    bits ^= bits >> np.uint64(31)
    return bits


def deviates(hashes: Hashes) -> Floats:
    """Return a standard normal deviate for each hash."""
    return _DEVIATES.take((hashes >> np.uint64(64 - _DEVIATE_BITS)).astype(np.int64))


def anchor_of(seed: int, symbol: str) -> float:
    """Return the price that `symbol` moves around: a known one, or 10 to 500 by its hash, low prices likelier."""
    share = key_of(seed, f"anchor of {symbol}") / 2**64
    return KNOWN_ANCHORS.get(symbol, 10.0 * math.pow(50.0, share))


class RandomWalk:
    """The price paths of some symbols, a function of (seed, symbol, time) alone."""

    def __init__(self, symbols: Sequence[str], seed: int) -> None:
        keys = [key_of(seed, symbol) for symbol in symbols]
        octaves = scramble(np.arange(1, OCTAVES + 1), np.array([key_of(seed, "octaves")], np.uint64))
        self._anchors: Floats = np.array([anchor_of(seed, symbol) for symbol in symbols])
        # Each symbol returns to its anchor at a different instant, not all at once.
        self._phases: Ints = np.array([key % 2**OCTAVES for key in keys], np.int64)
        self._keys: Hashes = np.array(keys, np.uint64) ^ octaves[:, None]

    def at(self, seconds: Ints) -> Floats:
        """Return unrounded prices at whole seconds since 1970: one row per second, one column per symbol."""
        count = len(self._anchors)
        prices = np.empty((len(seconds), count))
        rows = max(1, BLOCK // count)
        for start in range(0, len(seconds), rows):
            block = seconds[start : start + rows, None] + self._phases
            prices[start : start + rows] = self._anchors * np.exp(SCALE * self._motion(block))
        return prices

    def _motion(self, seconds: Ints) -> Floats:
        """Return a Brownian motion of variance 1 per second.

        The spans are added one after the other, never by a reduction over an axis: NumPy's order of summation
        depends on the shape, and an instant must not depend on the instants of the same call.
        """
        motion = np.zeros(seconds.shape)
        for octave, keys in enumerate(self._keys, start=1):
            span = 1 << octave
            inside = seconds & (span - 1)
            tent = np.minimum(inside, span - inside) * span**-0.5
            tent *= deviates(scramble(seconds >> octave, keys))
            motion += tent
        return motion


def to_cents(prices: Floats) -> Floats:
    """Return prices rounded to cents, at least one cent."""
    return np.maximum(np.round(prices, 2), 0.01)
