"""The effect of a forget on the bars of one symbol.

A forget takes back records that come before it in the log. A separate engine rebuilds the bars of these records, once
from all stored records and once without the forgotten records:

    kept records ───────────────► bars before ─── equal to the present bars? ─── no: refused, the bar stays
    kept records, less forgotten ► bars after ──┐
                                                └── yes: they take the place of the present bars, or remove them

So each bar gets the values that it would have without the forgotten records. If some records of a bar are no longer
stored, `before` differs from the present bar, and the bar without the forgotten records cannot be computed. It stays
unchanged, and `refused` counts it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.engine.step import Batch
from stockpulse.market.arrays import Ints, Mask
from stockpulse.market.calendar import Calendar
from stockpulse.market.intervals import BASE_INTERVALS, Interval

_NOT_COMPARED = {"revision", "final", "dirty"}

BarsByInterval = dict[Interval, Rows]


@dataclass(frozen=True)
class Amendment:
    """The changes of a forget to the bars of one interval."""

    changed: Rows
    """Bars that replace the present ones, complete."""
    removed: Rows
    """Deleted bars: none of their records is left. Their revision is the record that deletes them."""
    refused: int
    """The number of bars that stay unchanged, because not all of their records are stored."""


def build_bars(batches: Iterable[Batch], symbol_id: int, calendar: Calendar, *, extended_day: bool) -> BarsByInterval:
    """Build the bars of one symbol from these records alone; the bars are sorted by time."""
    engine = BarEngine(extended_day=extended_day)
    engine.learn(symbol_id, calendar)
    nothing_stored = np.empty(0, BAR)
    for batch in batches:
        step = engine.step(batch, {})
        try:
            next(step)
            while True:
                step.send(nothing_stored)
        except StopIteration:
            pass
    return {interval: engine.resident(interval, symbol_id) for interval in BASE_INTERVALS}


def touched(before: Rows, after: Rows, candidates: Ints) -> Ints:
    """Return the starts of the candidate buckets whose bar differs before and after."""
    at_before, in_before = _find(before, candidates)
    at_after, in_after = _find(after, candidates)
    both = in_before & in_after
    differs = in_before != in_after
    differs[both] = ~_same(before[at_before[both]], after[at_after[both]])
    chosen: Ints = candidates[differs]
    return chosen


def amendment(
    present: Rows, before: Rows, after: Rows, buckets: Ints, seqs: Ints, fresh: Ints | None = None
) -> Amendment:
    """Return the amendment of the present bars in these buckets; `seqs` has the record that amends each of them.

    All rows are of one symbol and sorted by time. A bucket whose bar this record has changed already, before a crash,
    is left alone. A bucket without a present bar gets one only if it is among the `fresh` ones, which have new trades.
    """
    at, there = _find(present, buckets)
    created = after[:0]
    if fresh is not None:
        missing = ~there & np.isin(buckets, fresh)
        created = _revised(after, buckets[missing], seqs[missing])
        created["final"] = False
    # What is not there is kept no longer, or removed already.
    buckets, seqs, bars = buckets[there], seqs[there], present[at[there]]
    open_ones = bars["revision"] < seqs
    buckets, seqs, bars = buckets[open_ones], seqs[open_ones], bars[open_ones]
    at, known = _find(before, buckets)
    known[known] = _same(before[at[known]], bars[known])
    _, stays = _find(after, buckets)
    changed = np.concatenate([_revised(after, buckets[known & stays], seqs[known & stays]), created])
    removed = bars[known & ~stays]
    removed["revision"] = seqs[known & ~stays]
    return Amendment(changed, removed, int((~known).sum()))


def _revised(after: Rows, buckets: Ints, seqs: Ints) -> Rows:
    """Return the bars of these buckets, with these revisions; buckets without a bar are left out."""
    at, found = _find(after, buckets)
    bars: Rows = after[at[found]]
    bars["revision"], bars["dirty"] = seqs[found], True
    return bars


def _find(bars: Rows, ts: Ints) -> tuple[Ints, Mask]:
    """Return the place of each time among the bars, and True where there is a bar."""
    if len(bars) == 0:
        return np.zeros(len(ts), np.int64), np.zeros(len(ts), bool)
    at = np.minimum(np.searchsorted(bars["ts"], ts), len(bars) - 1)
    return at, bars["ts"][at] == ts


def _same(a: Rows, b: Rows) -> Mask:
    """Return True for each pair of bars that are equal in all fields except revision, final and dirty."""
    same = np.ones(len(a), bool)
    for name in BAR.names or ():
        if name not in _NOT_COMPARED:
            same &= (a[name] == b[name]) | ((a[name] != a[name]) & (b[name] != b[name]))  # NaN equals NaN here
    return same
