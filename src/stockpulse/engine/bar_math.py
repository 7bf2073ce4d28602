"""A bar inside the engine, and the arithmetic that builds, merges and rolls up bars.

Bars are rows of one NumPy record type, so that a few vector operations merge a thousand of them. Merging is
associative and commutative: any split of the ticks into batches, in any order of arrival, gives the same bytes.
Sums are exact (see `exact_sums`); floats appear only where a bar leaves the system.
"""

from collections.abc import Callable
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from stockpulse.engine import exact_sums
from stockpulse.engine.exact_sums import UNKNOWN
from stockpulse.market.arrays import Floats, Ints, Mask
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, DAY_APART, DAY_SHIFT, PRIMARY
from stockpulse.market.times import MINUTE_MICROS

Rows: TypeAlias = npt.NDArray[np.void]
"""A one-dimensional array of `BAR` records."""

Flags: TypeAlias = npt.NDArray[np.uint16]

#: The first price of no trade at all comes after every trade, the last one before every trade.
NEVER_OPENED: Final = np.iinfo(np.int64).max
NEVER_CLOSED: Final = np.iinfo(np.int64).min

BAR: Final = np.dtype(
    [
        ("symbol_id", "i8"),
        ("ts", "i8"),  # start of the bucket, UTC microseconds
        ("end", "i8"),  # end of the bucket, UTC microseconds
        ("open", "f8"),  # NaN: no trade in it counts for prices
        ("high", "f8"),
        ("low", "f8"),
        ("close", "f8"),
        ("open_ts", "i8"),  # event time and log offset of the first and the last price
        ("open_seq", "i8"),
        ("close_ts", "i8"),
        ("close_seq", "i8"),
        ("volume_units", "i8"),  # see `exact_sums`; below 0: unknown
        ("volume_picos", "i8"),
        ("vwap_units", "i8"),  # the volume of the trades that the vwap is made of
        ("vwap_picos", "i8"),
        ("notional_high", "i8"),  # the sum of price x size of these trades
        ("notional_middle", "i8"),
        ("notional_low", "i8"),
        ("trade_count", "i8"),  # trades that count for volume; below 0: unknown
        ("revision", "i8"),  # log offset of the newest record in it
        ("provider_id", "i8"),  # the provider whose own bar this is; 0: built from trades
        ("by_minutes", "?"),  # a day that follows its minutes, because a provider gave some of them
        ("final", "?"),
        ("dirty", "?"),  # changed since it was last written
    ]
)

_VOLUMES: Final = ("volume", "vwap")
_NOTIONAL: Final = ("notional_high", "notional_middle", "notional_low")

# The effect of a trade on the bars being built. COUNTS_FOR_PRICE and COUNTS_FOR_VOLUME are the first two flags.
_FIRST_PRICE: Final = 4
_OPENING_PRICE: Final = 8
_ANY_PRICE: Final = COUNTS_FOR_PRICE | _FIRST_PRICE | _OPENING_PRICE
_INTRADAY: Final = COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME
_DAILY: Final = _ANY_PRICE | COUNTS_FOR_VOLUME

_KEY_MINUTE_BITS: Final = 28  # minutes of the years 1970 to 2480
_LARGEST_SHORT: Final = np.iinfo(np.uint16).max


def keys(symbol_id: Ints, ts: Ints) -> Ints:
    """Return (symbol, start of the bucket) as one sortable integer."""
    return (symbol_id << _KEY_MINUTE_BITS) | (ts // MINUTE_MICROS)


def from_keys(key: Ints) -> tuple[Ints, Ints]:
    """Return the symbols and the starts of the buckets that `keys` was given."""
    return key >> _KEY_MINUTE_BITS, (key & ((1 << _KEY_MINUTE_BITS) - 1)) * MINUTE_MICROS


# From trades ----------------------------------------------------------------------------------------


def from_ticks(symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, size: Floats, flags: Flags) -> Rows:
    """Return the 1-minute bars of these ticks alone, sorted by (symbol, ts). All arrays have the same length."""
    counts = np.where(flags & PRIMARY != 0, flags & _INTRADAY, 0)
    return _minutes(counts != 0, symbol_id, ts, seq, price, size, counts)


def bars_of_symbol(
    symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, size: Floats, flags: Flags, micros: int
) -> Rows:
    """Return the bars of another length of these ticks of one symbol, sorted by ts; the definition is `from_ticks`'s.

    The buckets begin at multiples of `micros`, which divides a minute.
    """
    counts = np.where(flags & PRIMARY != 0, flags & _INTRADAY, 0)
    return _bars(counts != 0, symbol_id, ts, seq, price, size, counts, lambda _, ts: ts // micros, micros)


def day_parts(
    symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, size: Floats, flags: Flags
) -> tuple[Rows, Rows] | None:
    """Return the parts of these ticks in daily bars, minute by minute; None if they equal `from_ticks`.

    The first rows count for the day if they lie in its session, like the minutes themselves. The second rows are of the
    ticks with `DAY_APART`: these count for the day of their date.
    """
    apart = flags & DAY_APART != 0
    if not apart.any():
        return None
    primary = flags & PRIMARY != 0
    counts = np.where(primary, flags & _INTRADAY, 0)
    daily = np.where(primary, (flags >> DAY_SHIFT) & _DAILY, 0)
    alike = _minutes(~apart & (counts != 0), symbol_id, ts, seq, price, size, counts)
    return alike, _minutes(apart & (counts | daily != 0), symbol_id, ts, seq, price, size, daily)


def _minutes(chosen: Mask, symbol_id: Ints, ts: Ints, seq: Ints, price: Floats, size: Floats, counts: Flags) -> Rows:
    """Return the 1-minute bars of the chosen ticks; `counts` has the parts of a bar that each of them counts for."""
    return _bars(chosen, symbol_id, ts, seq, price, size, counts, keys, MINUTE_MICROS)


def _bars(
    chosen: Mask,
    symbol_id: Ints,
    ts: Ints,
    seq: Ints,
    price: Floats,
    size: Floats,
    counts: Flags,
    key_of: Callable[[Ints, Ints], Ints],
    micros: int,
) -> Rows:
    """Return the bars of the chosen ticks, a bar for each key; `key_of` takes symbols and times."""
    if not chosen.all():
        symbol_id, ts, seq = symbol_id[chosen], ts[chosen], seq[chosen]
        price, size, counts = price[chosen], size[chosen], counts[chosen]
    if len(ts) == 0:
        return np.empty(0, BAR)
    key = key_of(symbol_id, ts)
    order = _by_bucket_then_time(key, symbol_id, ts)
    key, ts, seq, price, size, counts = key[order], ts[order], seq[order], price[order], size[order], counts[order]
    first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    bars = np.zeros(len(first), BAR)
    bars["symbol_id"] = symbol_id[order[first]]
    bars["ts"] = ts[first] // micros * micros
    bars["end"] = bars["ts"] + micros
    bars["revision"] = np.maximum.reduceat(seq, first)
    bars["dirty"] = True
    _set_prices(bars, first, ts, seq, price, counts)
    _set_sums(bars, first, price, size, counts)
    return bars


def _by_bucket_then_time(key: Ints, symbol_id: Ints, ts: Ints) -> Ints:
    """Return the order of ticks by bucket, then event time. It is stable: the log decides between equal times."""
    if (ts[1:] < ts[:-1]).any():
        return np.lexsort((ts, key))
    if ts[0] // MINUTE_MICROS == ts[-1] // MINUTE_MICROS:
        return by_symbol(symbol_id)
    return np.argsort(key, kind="stable")


def by_symbol(symbol_id: Ints) -> Ints:
    """Return the order of rows by symbol; rows of one symbol stay in their order."""
    short = symbol_id.max() <= _LARGEST_SHORT  # a radix sort, many times as fast
    return np.argsort(symbol_id.astype(np.uint16) if short else symbol_id, kind="stable")


def _set_prices(bars: Rows, first: Ints, ts: Ints, seq: Ints, price: Floats, counts: Flags) -> None:
    """Set the prices of groups that start at `first` and are sorted by time, then offset."""
    n = len(price)
    row = np.arange(n)
    priced = counts & _ANY_PRICE != 0
    opens = np.minimum.reduceat(np.where(priced, row, n), first)
    closes = np.maximum.reduceat(np.where(counts & COUNTS_FOR_PRICE != 0, row, -1), first)
    opened, closed = opens < n, closes >= 0
    opens, closes = np.where(opened, opens, 0), np.where(closed, closes, 0)
    bars["open"] = np.where(opened, price[opens], np.nan)
    bars["high"] = np.where(opened, np.maximum.reduceat(np.where(priced, price, -np.inf), first), np.nan)
    bars["low"] = np.where(opened, np.minimum.reduceat(np.where(priced, price, np.inf), first), np.nan)
    bars["open_ts"] = np.where(opened, ts[opens], NEVER_OPENED)
    bars["open_seq"] = np.where(opened, seq[opens], NEVER_OPENED)
    bars["close"] = np.where(closed, price[closes], bars["open"])
    bars["close_ts"] = np.where(closed, ts[closes], NEVER_CLOSED)
    bars["close_seq"] = np.where(closed, seq[closes], NEVER_CLOSED)
    if (counts & _OPENING_PRICE).any():
        _set_opening_prices(bars, first, seq, price, counts)


def _set_opening_prices(bars: Rows, first: Ints, seq: Ints, price: Floats, counts: Flags) -> None:
    """Let the opening print of a minute, in the log's order the last of several, come before its other trades.

    A trade and its correction can have one offset: of equal offsets the last row counts.
    """
    opening = counts & _OPENING_PRICE != 0
    newest = np.maximum.reduceat(np.where(opening, seq, -1), first)
    found = newest >= 0
    bar_of = np.repeat(np.arange(len(first)), np.diff(first, append=len(seq)))
    row = np.arange(len(seq))
    rows = np.maximum.reduceat(np.where(opening & (seq == newest[bar_of]), row, -1), first)
    bars["open"][found] = price[rows[found]]
    bars["open_ts"][found] = bars["ts"][found] - 1
    bars["open_seq"][found] = -newest[found]
    bars["close"] = np.where(bars["close_ts"] == NEVER_CLOSED, bars["open"], bars["close"])


def _set_sums(bars: Rows, first: Ints, price: Floats, size: Floats, counts: Flags) -> None:
    """Set volume, vwap and trade count. The vwap takes the trades that count for volume and for high and low."""
    counted = counts & COUNTS_FOR_VOLUME != 0
    priced = counted & (counts & _ANY_PRICE != 0)
    units, picos = exact_sums.split(np.where(counted, size, 0.0))
    _set_volume(bars, "volume", exact_sums.carry(np.add.reduceat(units, first), np.add.reduceat(picos, first)))
    if (priced == counted).all():
        bars["vwap_units"], bars["vwap_picos"] = bars["volume_units"], bars["volume_picos"]
    else:
        units, picos = np.where(priced, units, 0), np.where(priced, picos, 0)
        _set_volume(bars, "vwap", exact_sums.carry(np.add.reduceat(units, first), np.add.reduceat(picos, first)))
    _set_notional(bars, exact_sums.sum_products(np.where(priced, price * size, 0.0), first))
    bars["trade_count"] = np.add.reduceat(counted.astype(np.int64), first)


def _volume(bars: Rows, name: str) -> exact_sums.Volume:
    return bars[f"{name}_units"], bars[f"{name}_picos"]


def _set_volume(bars: Rows, name: str, volume: exact_sums.Volume) -> None:
    bars[f"{name}_units"], bars[f"{name}_picos"] = volume


def _notional(bars: Rows) -> exact_sums.Notional:
    return bars["notional_high"], bars["notional_middle"], bars["notional_low"]


def _set_notional(bars: Rows, notional: exact_sums.Notional) -> None:
    for name, digits in zip(_NOTIONAL, notional, strict=True):
        bars[name] = digits


# Merging --------------------------------------------------------------------------------------------


def merge(old: Rows, new: Rows) -> Rows:
    """Merge bars of the same buckets, row by row, as if all their trades had come together."""
    bars = old.copy()
    bars["end"] = np.maximum(old["end"], new["end"])
    earlier = _before(new["open_ts"], new["open_seq"], old["open_ts"], old["open_seq"])
    later = _before(old["close_ts"], old["close_seq"], new["close_ts"], new["close_seq"])
    for side, mask in (("open", earlier), ("close", later)):
        for field in (side, f"{side}_ts", f"{side}_seq"):
            bars[field] = np.where(mask, new[field], old[field])
    bars["close"] = np.where(bars["close_ts"] == NEVER_CLOSED, bars["open"], bars["close"])
    bars["high"] = np.fmax(old["high"], new["high"])
    bars["low"] = np.fmin(old["low"], new["low"])
    for name in _VOLUMES:
        _set_volume(bars, name, exact_sums.add_volumes(_volume(old, name), _volume(new, name)))
    _set_notional(bars, exact_sums.add_notionals(_notional(old), _notional(new)))
    bars["trade_count"] = _sum_or_unknown(old["trade_count"], new["trade_count"])
    bars["by_minutes"] = old["by_minutes"] | new["by_minutes"]
    bars["revision"] = np.maximum(old["revision"], new["revision"])
    bars["dirty"] = True
    return bars


def _before(a_ts: Ints, a_seq: Ints, b_ts: Ints, b_seq: Ints) -> Mask:
    before: Mask = (a_ts < b_ts) | ((a_ts == b_ts) & (a_seq < b_seq))
    return before


def _sum_or_unknown(a: Ints, b: Ints) -> Ints:
    return np.where((a < 0) | (b < 0), UNKNOWN, a + b)


def roll_up(minutes: Rows, ts: Ints, end: Ints) -> Rows:
    """Roll bars, sorted by (symbol, ts), up into the longer buckets [ts, end) that contain them.

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
    for name in _VOLUMES:
        _set_volume(bars, name, exact_sums.sum_volumes(*_volume(minutes, name), first))
    _set_notional(bars, exact_sums.sum_notionals(*_notional(minutes), first))
    counts = minutes["trade_count"]
    unknown = np.minimum.reduceat(counts, first) < 0
    bars["trade_count"] = np.where(unknown, UNKNOWN, np.add.reduceat(counts, first))
    return bars


def _roll_up_prices(bars: Rows, minutes: Rows, first: Ints) -> None:
    n = len(minutes)
    row = np.arange(n)
    opens = np.minimum.reduceat(np.where(minutes["open_ts"] != NEVER_OPENED, row, n), first)
    closes = np.maximum.reduceat(np.where(minutes["close_ts"] != NEVER_CLOSED, row, -1), first)
    # Without a price in the whole bucket any minute will do: its prices are NaN, its stamps "never".
    opens, closes = np.where(opens == n, first, opens), np.where(closes < 0, first, closes)
    for field in ("open", "open_ts", "open_seq"):
        bars[field] = minutes[field][opens]
    for field in ("close", "close_ts", "close_seq"):
        bars[field] = minutes[field][closes]
    bars["close"] = np.where(bars["close_ts"] == NEVER_CLOSED, bars["open"], bars["close"])
    bars["high"] = np.fmax.reduceat(minutes["high"], first)
    bars["low"] = np.fmin.reduceat(minutes["low"], first)


# From a provider ------------------------------------------------------------------------------------


def from_provider(columns: dict[str, Any], seq: Ints, end: Ints) -> Rows:
    """Return a provider's own bars as records, sorted by (symbol, ts); of several for one bucket the newest.

    `columns` holds arrays symbol_id, ts, open, high, low, close, volume, trade_count (-1: not said),
    vwap (NaN: not said), provider_id.
    """
    bars = np.zeros(len(seq), BAR)
    for field in ("symbol_id", "ts", "open", "high", "low", "close", "trade_count", "provider_id"):
        bars[field] = columns[field]
    bars["end"] = end
    bars["open_ts"], bars["close_ts"] = bars["ts"], end - 1
    for field in ("open_seq", "close_seq", "revision"):
        bars[field] = seq
    set_sums(bars, columns["volume"], columns["vwap"])
    bars["dirty"] = True
    return newest_of_each(bars)


def set_sums(bars: Rows, volume: Floats, vwap: Floats) -> None:
    """Set the exact sums of bars from their volume and their vwap; NaN means unknown."""
    known = ~np.isnan(volume)
    silent = ~known | np.isnan(vwap)
    units, picos = exact_sums.carry(*exact_sums.split(np.where(known, volume, 0.0)))
    _set_volume(bars, "volume", (np.where(known, units, UNKNOWN), picos))
    _set_volume(bars, "vwap", (np.where(silent, UNKNOWN, units), np.where(silent, 0, picos)))
    products = np.where(silent, 0.0, vwap) * np.where(known, volume, 0.0)
    high, middle, low = exact_sums.sum_products(products, np.arange(len(bars)))
    _set_notional(bars, (np.where(silent, UNKNOWN, high), middle, low))


# Values ---------------------------------------------------------------------------------------------


def volume_of(bars: Rows) -> Floats:
    """Return the volume of each bar; NaN where it is unknown."""
    return exact_sums.total(*_volume(bars, "volume"))


def vwap_of(bars: Rows) -> Floats:
    """Return the vwap of each bar, between its low and its high; NaN where it is unknown or there is no volume."""
    vwap = exact_sums.quotient(_notional(bars), _volume(bars, "vwap"))
    # The mean of prices lies between them, but for rounding. A provider's own vwap stays as it was given.
    bounded = np.minimum(np.maximum(vwap, bars["low"]), bars["high"])
    return np.where(bars["provider_id"] == 0, bounded, vwap)


def pairs_in(symbol_id: Ints, ts: Ints, bars: Rows) -> Mask:
    """Return True for each (symbol, start of the bucket) that is among the bars."""
    return np.isin(keys(symbol_id, ts), keys(bars["symbol_id"], bars["ts"]))


def newest_of_each(bars: Rows) -> Rows:
    """Return the last one in the array of each (symbol, ts), sorted by it."""
    key = keys(bars["symbol_id"], bars["ts"])
    order = np.argsort(key, kind="stable")
    key = key[order]
    last = np.r_[key[1:] != key[:-1], True] if len(key) else np.empty(0, bool)
    return bars[order[last]]
