"""A step of the engine: the records that go in, the stored bars that it needs, and the events that come out."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from stockpulse.engine.bar_math import Flags, Rows
from stockpulse.market.arrays import Floats, Ints
from stockpulse.market.intervals import Interval


@dataclass(frozen=True)
class TickBatch:
    """Consecutive trades of the log, as arrays of one length."""

    seq: Ints
    symbol_id: Ints
    provider_id: Ints
    ts: Ints
    price: Floats
    size: Floats
    flags: Flags

    @property
    def trades(self) -> tuple[Ints, Ints, Ints, Floats, Floats, Flags]:
        """The columns that bars are built from, in the order of `bar_math.from_ticks`."""
        return self.symbol_id, self.ts, self.seq, self.price, self.size, self.flags


@dataclass(frozen=True)
class ProviderBars:
    """A provider's own bars of one interval; see `bar_math.from_provider`."""

    interval: Interval
    rows: Rows


Batch: TypeAlias = TickBatch | Sequence[ProviderBars]
"""Consecutive records of the log: trades, or bars with the longest interval first."""


@dataclass(frozen=True)
class Range:
    """Stored bars with start <= ts < end, one symbol, start and end for each row."""

    interval: Interval
    symbol_id: Ints
    start: Ints
    end: Ints


@dataclass(frozen=True)
class BarEvents:
    """Bars that were announced as final, or revised after that; the highest revision of a bar is right."""

    interval: Interval
    rows: Rows
    revised: bool
    """True if these bars had been announced before."""
    removed: bool = False
    """True if these bars were deleted: none of their records is left. `rows` are their last values."""


Step: TypeAlias = Generator[Range, Rows, list[BarEvents]]
"""A step in progress: it yields ranges of stored bars, receives their rows by `send`, and returns the events."""
