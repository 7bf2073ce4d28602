"""Bars for buckets without a trade: `fill=forward` repeats the last close until the next bar.

    bars      a . . b . c        . no trade
    filled    a a a b b c        never before the first bar, never after the last one

Only buckets within the sessions of an exchange are filled. Bars before the open and after the close stay.
"""

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Final

import numpy as np
import polars as pl

from stockpulse.market.arrays import array_of
from stockpulse.market.calendar import Calendar, Times
from stockpulse.market.intervals import D1, Interval
from stockpulse.market.schemas import UTC_MICROS

#: The number of buckets handled at once, so that a gap of years needs no more memory than a gap of hours.
_BUCKETS: Final = 20_000
_DAY: Final = 86_400_000_000


async def filled(
    pages: AsyncIterator[pl.DataFrame], calendar: Calendar, interval: Interval
) -> AsyncGenerator[pl.DataFrame]:
    """Yield the pages of `SERVED_BARS`, oldest first, with the gaps within and between them filled."""
    before: pl.DataFrame | None = None
    async for page in pages:
        if page.is_empty():
            continue
        known = page if before is None else pl.concat([before, page])
        for at, part in enumerate(fill_forward(known, calendar, interval)):
            # The last bar of the page before was yielded already.
            yield part.slice(1) if at == 0 and before is not None else part
        before = page.tail(1)


def fill_forward(bars: pl.DataFrame, calendar: Calendar, interval: Interval) -> Iterator[pl.DataFrame]:
    """Yield these `SERVED_BARS`, oldest first, in pieces with the gaps between them filled."""
    ts = array_of(bars["ts"])
    done = 0
    for buckets in _buckets_between(calendar, interval, int(ts[0]), int(ts[-1])):
        bar_of = np.searchsorted(ts, buckets, side="right") - 1
        empty = ts[bar_of] != buckets
        upto = int(bar_of[-1]) + 1
        yield pl.concat([bars[done:upto], _repeated(bars[bar_of[empty]], buckets[empty])]).sort("ts")
        done = upto
    yield bars[done:]


def _repeated(bars: pl.DataFrame, ts: Times) -> pl.DataFrame:
    """Return for each bar a filled one at another time: its close, without volume."""
    return bars.with_columns(
        pl.Series("ts", ts).cast(UTC_MICROS),
        *(pl.col("close").alias(name) for name in ("open", "high", "low")),
        pl.lit(0.0).alias("volume"),
        pl.lit(0, pl.Int64).alias("trade_count"),
        pl.lit(None, pl.Float64).alias("vwap"),
        pl.lit(None, pl.String).alias("source"),
        pl.lit(value=True).alias("filled"),
    )


def _buckets_between(calendar: Calendar, interval: Interval, first: int, last: int) -> Iterator[Times]:
    """Yield the starts of the buckets in sessions between `first` and `last`, both excluded, in thousands."""
    # A session may open on the evening before its date; a period may begin long before its first session.
    labels, opens, closes = calendar.sessions(first - 32 * _DAY, last + 2 * _DAY)
    for some in _in_parts(opens, closes, interval):
        if interval.micros is not None:
            starts = _starts(opens[some], closes[some], interval.micros)
        elif interval is D1:
            starts = labels[some]
        else:
            starts = np.unique(calendar.period(labels[some], interval))
        starts = starts[(starts > first) & (starts < last)]
        if len(starts):
            first = int(starts[-1])
            yield starts


def _in_parts(opens: Times, closes: Times, interval: Interval) -> Iterator[slice]:
    """Split the sessions into runs of about `_BUCKETS` buckets."""
    counts = np.ones_like(opens) if interval.micros is None else _counts(opens, closes, interval.micros)
    part = np.cumsum(counts) // _BUCKETS
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(opens)]
    return (slice(begin, end) for begin, end in itertools.pairwise(edges))


def _starts(opens: Times, closes: Times, micros: int) -> Times:
    """Return the starts of the buckets of each session, from its open in steps to its close."""
    counts = _counts(opens, closes, micros)
    ends = np.cumsum(counts)
    steps = np.arange(int(counts.sum())) - np.repeat(ends - counts, counts)
    return np.repeat(opens, counts) + steps * micros


def _counts(opens: Times, closes: Times, micros: int) -> Times:
    return -((opens - closes) // micros)
