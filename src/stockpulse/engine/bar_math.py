"""What a bar is inside the engine, and the arithmetic that keeps it exact.

Bars are rows of one NumPy record type, so that a thousand of them merge in a handful of vector
operations. Merging is associative and commutative: any split of the ticks into batches, in any order
of arrival, gives the same bytes.

Sums (volume, and price x size for the vwap) are exact: each addend is split into whole units and
billionths, and the two are summed as integers. Floats appear only where a bar leaves the system.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stockpulse.market.arrays import Floats, Ints, Mask
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, PRIMARY
from stockpulse.market.times import MINUTE_MICROS

Rows = npt.NDArray[np.void]
"""A one-dimensional array of `BAR` records."""

NANOS: Final = 1_000_000_000
UNKNOWN: Final = -1  # in counts and sums of a provider's bar that does not say them

#: The first price of no trade at all comes after every trade, the last one before every trade.
NEVER_OPENED: Final = np.iinfo(np.int64).max
NEVER_CLOSED: Final = np.iinfo(np.int64).min

BAR: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("ts", "i8"),  # start of the bucket, UTC microseconds
        ("end", "i8"),  # when the bucket is over, UTC microseconds
        ("open", "f8"),  # NaN: no trade in it counts for prices
        ("high", "f8"),
        ("low", "f8"),
        ("close", "f8"),
        ("open_ts", "i8"),  # event time and log offset of the first and the last price
        ("open_seq", "i8"),
        ("close_ts", "i8"),
        ("close_seq", "i8"),
        ("volume_units", "i8"),
        ("volume_nanos", "i8"),
        ("notional_units", "i8"),  # sum of price x size
        ("notional_nanos", "i8"),
        ("trade_count", "i8"),  # trades that count for volume
        ("revision", "i8"),  # log offset of the newest record in it
        ("provider_id", "i8"),  # whose own bar this is; 0: built from trades
        ("final", "?"),
        ("dirty", "?"),  # changed since it was last written
    ]
)

_EXACT_UNITS: Final = (1 << 53) // NANOS  # fewer units than that are, in billionths, an exact float
_KEY_MINUTE_BITS: Final = 28  # minutes of the years 1970 to 2480
_LARGEST_SHORT: Final = np.iinfo(np.uint16).max


def keys(symbol_id: Ints, ts: Ints) -> Ints:
    """(symbol, start of the bucket) as one sortable integer."""
    return (symbol_id << _KEY_MINUTE_BITS) | (ts // MINUTE_MICROS)


def split(value: Floats) -> tuple[Ints, Ints]:
    """Each value as whole units and billionths, rounded to the nearest one; there may be a whole 1e9 of them."""
    units = np.floor(value)
    nanos = np.rint((value - units) * NANOS)
    return units.astype(np.int64), nanos.astype(np.int64)


def total(units: npt.NDArray[Any], nanos: npt.NDArray[Any]) -> Floats:
    """The float nearest to an exact sum; NaN where it is unknown."""
    # As one integer a small sum is exact, and rounded only once; for a large one the second rounding is too small.
    small = units < _EXACT_UNITS
    nearest = np.where(small, (np.where(small, units, 0) * NANOS + nanos) / NANOS, units + nanos / NANOS)
    return np.where(units < 0, np.nan, nearest)


def from_ticks(symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, size: Floats, flags: npt.NDArray[np.uint8]) -> Rows:
    """The 1-minute bars of these ticks alone, sorted by (symbol, ts). All arrays have the same length."""
    counting = (flags & PRIMARY != 0) & (flags & (COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME) != 0)
    if not counting.all():
        symbol_id, ts, seq = symbol_id[counting], ts[counting], seq[counting]
        price, size, flags = price[counting], size[counting], flags[counting]
    if len(ts) == 0:
        return np.empty(0, BAR)
    key = keys(symbol_id, ts)
    order = _by_bucket_then_time(key, symbol_id, ts)
    key, ts, seq, price, size, flags = key[order], ts[order], seq[order], price[order], size[order], flags[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    bars = np.zeros(len(first), BAR)
    bars["symbol_id"] = key[first] >> _KEY_MINUTE_BITS
    bars["ts"] = ts[first] // MINUTE_MICROS * MINUTE_MICROS
    bars["end"] = bars["ts"] + MINUTE_MICROS
    bars["revision"] = np.maximum.reduceat(seq, first)
    bars["dirty"] = True
    _set_prices(bars, first, ts, seq, price, flags & COUNTS_FOR_PRICE != 0)
    _set_sums(bars, first, price, size, flags & COUNTS_FOR_VOLUME != 0)
    return bars


def _by_bucket_then_time(key: Ints, symbol_id: Ints, ts: Ints) -> Ints:
    """The order of ticks by bucket, then by event time. It is stable: the log's order decides between equal times."""
    if (ts[1:] < ts[:-1]).any():
        return np.lexsort((ts, key))
    if ts[0] // MINUTE_MICROS == ts[-1] // MINUTE_MICROS:
        return by_symbol(symbol_id)
    return np.argsort(key, kind="stable")


def by_symbol(symbol_id: Ints) -> Ints:
    """The order of rows by symbol, and within each as they are."""
    short = symbol_id.max() <= _LARGEST_SHORT  # a radix sort, many times as fast
    return np.argsort(symbol_id.astype(np.uint16) if short else symbol_id, kind="stable")


def _set_prices(bars: Rows, first: Ints, ts: Ints, seq: Ints, price: Floats, counts: Mask) -> None:
    """Open, high, low and close of groups that start at `first` and are sorted by time, then offset."""
    n = len(price)
    row = np.arange(n)
    opens = np.minimum.reduceat(np.where(counts, row, n), first)
    closes = np.maximum.reduceat(np.where(counts, row, -1), first)
    priced = closes >= 0
    opens, closes = np.where(priced, opens, 0), np.where(priced, closes, 0)
    bars["open"] = np.where(priced, price[opens], np.nan)
    bars["close"] = np.where(priced, price[closes], np.nan)
    bars["high"] = np.where(priced, np.maximum.reduceat(np.where(counts, price, -np.inf), first), np.nan)
    bars["low"] = np.where(priced, np.minimum.reduceat(np.where(counts, price, np.inf), first), np.nan)
    bars["open_ts"] = np.where(priced, ts[opens], NEVER_OPENED)
    bars["open_seq"] = np.where(priced, seq[opens], NEVER_OPENED)
    bars["close_ts"] = np.where(priced, ts[closes], NEVER_CLOSED)
    bars["close_seq"] = np.where(priced, seq[closes], NEVER_CLOSED)


def _set_sums(bars: Rows, first: Ints, price: Floats, size: Floats, counts: Mask) -> None:
    size = np.where(counts, size, 0.0)
    for name, value in (("volume", size), ("notional", price * size)):
        units, nanos = split(value)
        _set_exact(bars, name, np.add.reduceat(units, first), np.add.reduceat(nanos, first))
    bars["trade_count"] = np.add.reduceat(counts.astype(np.int64), first)


def _set_exact(bars: Rows, name: str, units: Ints, nanos: Ints) -> None:
    bars[f"{name}_units"] = units + nanos // NANOS
    bars[f"{name}_nanos"] = nanos % NANOS


def merge(old: Rows, new: Rows) -> Rows:
    """Bars of the same buckets, row by row, as if all their trades had come together."""
    bars = old.copy()
    earlier = _before(new["open_ts"], new["open_seq"], old["open_ts"], old["open_seq"])
    later = _before(old["close_ts"], old["close_seq"], new["close_ts"], new["close_seq"])
    for side, mask in (("open", earlier), ("close", later)):
        for field in (side, f"{side}_ts", f"{side}_seq"):
            bars[field] = np.where(mask, new[field], old[field])
    bars["high"] = np.fmax(old["high"], new["high"])
    bars["low"] = np.fmin(old["low"], new["low"])
    for name in ("volume", "notional"):
        units, nanos = f"{name}_units", f"{name}_nanos"
        unknown = (old[units] < 0) | (new[units] < 0)
        _set_exact(bars, name, old[units] + new[units], old[nanos] + new[nanos])
        bars[units][unknown] = UNKNOWN
        bars[nanos][unknown] = 0
    bars["trade_count"] = _sum_or_unknown(old["trade_count"], new["trade_count"])
    bars["revision"] = np.maximum(old["revision"], new["revision"])
    bars["dirty"] = True
    return bars


def _before(a_ts: Ints, a_seq: Ints, b_ts: Ints, b_seq: Ints) -> Mask:
    before: Mask = (a_ts < b_ts) | ((a_ts == b_ts) & (a_seq < b_seq))
    return before


def _sum_or_unknown(a: Ints, b: Ints) -> Ints:
    return np.where((a < 0) | (b < 0), UNKNOWN, a + b)


def roll_up(minutes: Rows, ts: Ints, end: Ints) -> Rows:
    """1-minute bars, sorted by (symbol, ts), as bars of the longer buckets [ts, end) that they lie in.

    `ts` and `end` have one value for each of `minutes` and never decrease within a symbol.
    """
    if len(minutes) == 0:
        return np.empty(0, BAR)
    key = keys(minutes["symbol_id"], ts)
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    bars = np.zeros(len(first), BAR)
    bars["symbol_id"] = minutes["symbol_id"][first]
    bars["ts"], bars["end"] = ts[first], end[first]
    bars["revision"] = np.maximum.reduceat(minutes["revision"], first)
    bars["dirty"] = True
    _roll_up_prices(bars, minutes, first)
    for name in ("volume", "notional"):
        units, nanos = minutes[f"{name}_units"], minutes[f"{name}_nanos"]
        unknown = np.minimum.reduceat(units, first) < 0
        _set_exact(bars, name, np.add.reduceat(units, first), np.add.reduceat(nanos, first))
        bars[f"{name}_units"][unknown] = UNKNOWN
        bars[f"{name}_nanos"][unknown] = 0
    counts = minutes["trade_count"]
    unknown = np.minimum.reduceat(counts, first) < 0
    bars["trade_count"] = np.where(unknown, UNKNOWN, np.add.reduceat(counts, first))
    return bars


def _roll_up_prices(bars: Rows, minutes: Rows, first: Ints) -> None:
    n = len(minutes)
    row = np.arange(n)
    priced = ~np.isnan(minutes["open"])
    opens = np.minimum.reduceat(np.where(priced, row, n), first)
    closes = np.maximum.reduceat(np.where(priced, row, -1), first)
    none = closes < 0
    # Without a price in the whole bucket any minute will do: its prices are NaN, its stamps "never".
    opens, closes = np.where(none, first, opens), np.where(none, first, closes)
    for field in ("open", "open_ts", "open_seq"):
        bars[field] = minutes[field][opens]
    for field in ("close", "close_ts", "close_seq"):
        bars[field] = minutes[field][closes]
    bars["high"] = np.fmax.reduceat(minutes["high"], first)
    bars["low"] = np.fmin.reduceat(minutes["low"], first)


def from_provider(columns: dict[str, Any], seq: Ints, end: Ints) -> Rows:
    """A provider's own bars as records.

    `columns` holds arrays symbol_id, ts, open, high, low, close, volume, trade_count (-1: not said),
    vwap (NaN: not said), provider_id. Of several for one bucket the newest stays. Sorted by (symbol, ts).
    """
    bars = np.zeros(len(seq), BAR)
    for field in ("symbol_id", "ts", "open", "high", "low", "close", "trade_count", "provider_id"):
        bars[field] = columns[field]
    bars["end"] = end
    bars["open_ts"], bars["close_ts"] = bars["ts"], end - 1
    for field in ("open_seq", "close_seq", "revision"):
        bars[field] = seq
    _set_exact(bars, "volume", *split(columns["volume"]))
    silent = np.isnan(columns["vwap"])
    _set_exact(bars, "notional", *split(np.where(silent, 0.0, columns["vwap"]) * columns["volume"]))
    bars["notional_units"][silent] = UNKNOWN
    bars["dirty"] = True
    return newest_of_each(bars)


def pairs_in(symbol_id: Ints, ts: Ints, bars: Rows) -> Mask:
    """Which of these (symbol, start of the bucket) are among the bars."""
    return np.isin(keys(symbol_id, ts), keys(bars["symbol_id"], bars["ts"]))


def newest_of_each(bars: Rows) -> Rows:
    """The last one in the array of each (symbol, ts), sorted by it."""
    key = keys(bars["symbol_id"], bars["ts"])
    order = np.argsort(key, kind="stable")
    key = key[order]
    last = np.r_[key[1:] != key[:-1], True] if len(key) else np.empty(0, bool)
    return bars[order[last]]
