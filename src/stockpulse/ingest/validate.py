"""Validates rows before they enter the log. Every rejected row has a reason; no row is dropped silently."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.market.arrays import Mask, array_of, distinct_texts
from stockpulse.market.intervals import D1, MINUTES_OF
from stockpulse.market.rows import LONGEST_RECORD, LONGEST_VALUE, cut
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS
from stockpulse.market.symbology import SYMBOL_TAKES, read_symbols
from stockpulse.market.times import MINUTE_MICROS, micros

EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
LARGEST: Final = 1e12
"""The largest price, and the largest size."""
SMALLEST_PRICE: Final = 1e-15
"""The smallest price: no market quotes less, and a change from it to the largest one is still a number."""
LARGEST_PRODUCT: Final = 1e18
"""The largest price x size of a trade: a bar sums a hundred million of these without an overflow."""
LARGEST_SUM: Final = 1e14
"""The largest volume, and volume x vwap, of a provider's minute bar: a month of these sums without an overflow."""
LARGEST_SUM_OF_DAY: Final = 1e17
"""The same limit for a daily bar."""
LARGEST_COUNT: Final = 10**12
"""The largest number of trades of a provider's bar."""

_NULL_TIME: Final = np.iinfo(np.int64).min
_TEXTS: Final = {"exchange": 16, "conditions": 64, "trade_id": 64}
"""The longest text of each of these columns."""

_OF_RIGHT_TRADE: Final = ("price", "size", "conditions", "tape", "new_trade_id")

Check = tuple[Mask | np.bool_, str]
"""A mask of the rows that pass (or one value for all rows), and the reason for the other rows."""


@dataclass(frozen=True)
class Validated:
    """The valid rows, without the parser's columns, and the rejected rows as `row`, `reason`, `raw`."""

    good: pl.DataFrame
    rejected: pl.DataFrame


def validate_ticks(frame: pl.DataFrame, now: datetime, tolerance: timedelta) -> Validated:
    """Check a batch of TICKS or PARSED_TICKS.

    `now` is the time of receipt: an event may be later by `tolerance` at most.
    """
    frame, symbols = _checked_symbols(frame)
    checks = [symbols, *_times(frame, now + tolerance), *_trade(frame, frame["price"], frame["size"])]
    return _split(frame, checks, list(TICKS))


def _trade(frame: pl.DataFrame, prices: pl.Series, sizes: pl.Series) -> Iterator[Check]:
    """Check the values of trades, and their texts."""
    price, size = prices.to_numpy(), sizes.to_numpy()
    with np.errstate(invalid="ignore", over="ignore"):
        yield _positive("price", price)
        yield _plausible("price", price)
        yield (size >= 0) & (size <= LARGEST), f"size: must be a number >= 0 and <= {LARGEST:g}"
        yield ~(price * size > LARGEST_PRODUCT), "size: price x size is absurdly large"
    for name, length in _TEXTS.items():
        yield _texts(frame, name, length)
    yield _tapes(frame["tape"])


def validate_corrections(frame: pl.DataFrame, now: datetime, tolerance: timedelta) -> Validated:
    """Check a batch of CORRECTIONS, which may have the parser's columns `problem` and `raw` too."""
    frame, symbols = _checked_symbols(frame)
    cancels = frame.select(pl.all_horizontal(pl.col(_OF_RIGHT_TRADE).is_null())).to_series()
    checks = [
        symbols,
        *_times(frame, now + tolerance),
        (frame["trade_id"].is_not_null().to_numpy(), "trade_id: missing"),
        (
            (cancels | (frame["price"].is_not_null() & frame["size"].is_not_null())).to_numpy(),
            "price, size: a correction has both; a cancel has no value of the right trade",
        ),
        # A cancel has no price to check: a valid one stands in for it.
        *_trade(frame, frame["price"].zip_with(~cancels, _ones(frame)), frame["size"].zip_with(~cancels, _ones(frame))),
        _texts(frame, "new_trade_id", _TEXTS["trade_id"]),
    ]
    return _split(frame, checks, list(CORRECTIONS))


def _ones(frame: pl.DataFrame) -> pl.Series:
    return pl.repeat(1.0, len(frame), eager=True)


def refuse(checked: Validated, wrong: Mask, reason: str) -> Validated:
    """Move valid rows to the rejected ones, for a reason that is not in the rows themselves."""
    height = len(checked.good) + len(checked.rejected)
    rows = np.setdiff1d(np.arange(height), checked.rejected["row"].to_numpy(), assume_unique=True)
    [schema] = [one for one in (CORRECTIONS, BARS, TICKS) if set(one) <= set(checked.good.columns)][:1]
    more = _rejects(checked.good, ~wrong, [(~wrong, reason)], list(schema))
    more = more.with_columns(pl.Series("row", rows[wrong], dtype=pl.Int64))
    return Validated(checked.good.filter(~wrong), pl.concat([checked.rejected, more]).sort("row"))


def validate_bars(frame: pl.DataFrame, now: datetime, tolerance: timedelta) -> Validated:
    """Check a batch of BARS, which may have the parser's columns `problem` and `raw` too."""
    frame, symbols = _checked_symbols(frame)
    prices = {name: frame[name].to_numpy() for name in ("open", "high", "low", "close")}
    top, bottom = np.fmax(prices["open"], prices["close"]), np.fmin(prices["open"], prices["close"])
    volume, vwap = frame["volume"].to_numpy(), frame["vwap"].fill_null(0.0).to_numpy()
    most = np.where(_daily(frame), LARGEST_SUM_OF_DAY, LARGEST_SUM)
    with np.errstate(invalid="ignore", over="ignore"):
        checks = [
            symbols,
            (
                frame["interval"].is_in(list(MINUTES_OF)).fill_null(value=False).to_numpy(),
                "interval: takes 1m, 5m, 1d",
            ),
            *_times(frame, now + tolerance),
            (_on_grid(frame), "ts: not the start of a bucket of the interval"),
            *(check(name, values) for name, values in prices.items() for check in (_positive, _plausible)),
            ((prices["high"] >= top) & (prices["low"] <= bottom), "high, low: do not enclose open and close"),
            (
                (volume >= 0) & (volume <= most),
                f"volume: must be a number >= 0 and <= {LARGEST_SUM:g}, of a day {LARGEST_SUM_OF_DAY:g}",
            ),
            (
                frame["trade_count"].fill_null(0).is_between(0, LARGEST_COUNT).to_numpy(),
                f"trade_count: must be >= 0 and <= {LARGEST_COUNT:.0e}",
            ),
            ((vwap >= 0) & (vwap <= LARGEST), f"vwap: must be a number >= 0 and <= {LARGEST:g}"),
            (~(vwap * volume > most), "volume: vwap x volume is absurdly large"),
        ]
    return _split(frame, checks, list(BARS))


def _checked_symbols(frame: pl.DataFrame) -> tuple[pl.DataFrame, Check]:
    """Return the batch with its symbols as they are stored, and the check of them.

    Few symbols make up many rows, so each is checked once. A text that is not a symbol stays unchanged.
    """
    texts = frame["symbol"]
    sent = distinct_texts(texts)
    stored = read_symbols(sent)
    changed = {text: symbol for text, symbol in stored.items() if symbol != text}
    if changed:
        frame = frame.with_columns(texts.replace(changed))
    fine: Mask | np.bool_ = np.bool_(True)
    if len(stored) < len(sent):
        fine = frame["symbol"].is_in(list(set(stored.values()))).fill_null(value=False).to_numpy()
    return frame, (fine, f"symbol: {SYMBOL_TAKES}")


def _tapes(tapes: pl.Series) -> Check:
    if tapes.null_count() == len(tapes):
        return np.bool_(True), ""
    return tapes.str.contains("^[A-Z]$").fill_null(value=True).to_numpy(), "tape: must be one letter of A-Z"


def _times(frame: pl.DataFrame, latest: datetime) -> Iterator[Check]:
    ts = array_of(frame["ts"])
    missing = ts == _NULL_TIME
    yield ~missing, "ts: missing"
    yield missing | (ts >= micros(EARLIEST)), "ts: before 1990"
    yield ts <= micros(latest), "ts: in the future"


def _on_grid(frame: pl.DataFrame) -> Mask:
    minutes = frame["interval"].replace_strict(MINUTES_OF, default=1, return_dtype=pl.Int64).to_numpy()
    ts = array_of(frame["ts"])
    on_grid: Mask = (ts % (minutes * MINUTE_MICROS) == 0) | (ts == _NULL_TIME)
    return on_grid | _daily(frame)


def _daily(frame: pl.DataFrame) -> Mask:
    daily: Mask = frame["interval"].eq_missing(pl.Series([D1.name])).to_numpy()
    return daily


def _positive(name: str, value: npt.NDArray[np.float64]) -> Check:
    return (value > 0) & (value <= LARGEST), f"{name}: must be a number > 0 and <= {LARGEST:g}"


def _plausible(name: str, value: npt.NDArray[np.float64]) -> Check:
    return ~(value < SMALLEST_PRICE), f"{name}: below {SMALLEST_PRICE:g}, the smallest price"


def _texts(frame: pl.DataFrame, name: str, length: int) -> Check:
    """Check an optional text: short and printable, with spaces inside only.

    Conditions may begin or end with a code that is a space: on tape A and B that is a regular sale.
    """
    texts = frame[name]
    text = rf"[\x21-\x7e]([\x20-\x7e]{{0,{length - 2}}}[\x21-\x7e])?"
    pattern = rf"^( |( ,)?{text}(, )?)$" if name == "conditions" else f"^{text}$"
    fine: Mask | np.bool_ = np.bool_(True)
    if texts.null_count() < len(texts):
        fine = _matching(texts, pattern) if name == "trade_id" else _of_few(texts, pattern)
    return fine, f"{name}: must be 1 to {length} printable ASCII characters"


def _matching(texts: pl.Series, pattern: str) -> Mask | np.bool_:
    """Return True for each text that matches the pattern, and for nulls."""
    fine = texts.str.contains(pattern)
    return np.bool_(True) if fine.all() else fine.fill_null(value=True).to_numpy()


def _of_few(texts: pl.Series, pattern: str) -> Mask | np.bool_:
    """Do the same for texts that are often equal: each distinct text is checked once."""
    distinct = distinct_texts(texts)
    fine = [text for text in distinct if text is None or re.fullmatch(pattern, text)]
    return np.bool_(True) if len(fine) == len(distinct) else texts.is_in(fine, nulls_equal=True).to_numpy()


def _split(frame: pl.DataFrame, checks: list[Check], columns: list[str]) -> Validated:
    parsed = "problem" in frame.columns
    if parsed:
        checks = [(frame["problem"].is_null().to_numpy(), ""), *checks]
    passed = np.ones(len(frame), bool)
    for fine, _ in checks:
        passed &= fine
    kept = frame.drop("problem", "raw", strict=False) if parsed else frame
    if passed.all():
        return Validated(kept, _NO_REJECTS)
    return Validated(kept.filter(passed), _rejects(frame, passed, checks, columns))


_NO_REJECTS: Final = pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String, "raw": pl.String})


def _rejects(frame: pl.DataFrame, passed: Mask, checks: list[Check], columns: list[str]) -> pl.DataFrame:
    rows = np.flatnonzero(~passed)
    wrong = np.stack([np.broadcast_to(~fine, len(frame))[rows] for fine, _ in checks])
    reasons = pl.Series([checks[first][1] for first in wrong.argmax(axis=0)], dtype=pl.String)
    frame = frame[rows]
    values = [_short(frame, name) for name in columns]
    if "new_trade_id" in columns:  # without the type it would be read as a trade when it is sent again
        values.insert(0, pl.repeat("correction", len(frame), eager=True).alias("type"))
    raw = frame.select(pl.struct(*values).struct.json_encode()).to_series()
    if "problem" in frame.columns:
        reasons = reasons.zip_with(frame["problem"].is_null(), frame["problem"])
        raw = raw.zip_with(frame["raw"].is_null(), cut(frame["raw"], LONGEST_RECORD))
    return pl.DataFrame({"row": rows, "reason": reasons, "raw": raw})


def _short(frame: pl.DataFrame, name: str) -> pl.Series:
    """Return a column with its texts cut: no valid text is longer than the longest value."""
    return cut(frame[name], LONGEST_VALUE) if frame.schema[name] == pl.String else frame[name]
