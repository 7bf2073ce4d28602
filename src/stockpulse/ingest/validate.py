"""What may enter the log. Every row that may not is told apart with its reason; none is dropped silently."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from stockpulse.frames import BARS, TICKS
from stockpulse.names import SYMBOL

EARLIEST: Final = datetime(1990, 1, 1, tzinfo=UTC)
LARGEST: Final = 1e12
"""No price and no size is larger; and no price x size is larger than a thousand times that."""

LARGEST_SUM: Final = 1e18
"""Sums are whole numbers of 64 bits, and billionths."""

_REPEATED: Final = ("exchange", "conditions")
"""Texts of which few make up many rows."""

RAW_BYTES: Final = 8192


@dataclass(frozen=True)
class Validated:
    """The rows that may go on, and those that may not: with `row` (place in the batch), `reason`, `raw`."""

    good: pl.DataFrame
    rejected: pl.DataFrame


def validate_ticks(frame: pl.DataFrame, now: datetime, tolerance: timedelta) -> Validated:
    """Check a batch of `frames.TICKS`, which may carry `problem` and `raw` columns of its parser.

    `now` is the time of receipt: no event may be later than it by more than the tolerance.
    """
    frame = _with_symbol_upper(frame)
    fine = [
        (_symbol_is_fine(frame), _SYMBOL_REASON),
        *_time_checks(now + tolerance),
        *_positive("price"),
        (
            pl.col("size").is_finite() & pl.col("size").is_between(0, LARGEST),
            f"size: must be >= 0 and <= {LARGEST:g}",
        ),
        (pl.col("price") * pl.col("size") <= 1000 * LARGEST, "size: price x size is absurdly large"),
        *(
            _text_check(frame, name, length)
            for name, length in (("exchange", 16), ("conditions", 64), ("trade_id", 64))
        ),
    ]
    return _split(frame, fine, list(TICKS))


def validate_bars(frame: pl.DataFrame, now: datetime, tolerance: timedelta) -> Validated:
    """Check a batch of `frames.BARS`."""
    frame = _with_symbol_upper(frame)
    minute = {"1m": 1, "5m": 5}
    off_grid = pl.any_horizontal(
        (pl.col("interval") == name) & (pl.col("ts").dt.epoch("us") % (length * 60_000_000) != 0)
        for name, length in minute.items()
    )
    fine = [
        (_symbol_is_fine(frame), _SYMBOL_REASON),
        (pl.col("interval").is_in([*minute, "1d"]), "interval: must be 1m, 5m or 1d"),
        *_time_checks(now + tolerance),
        (~off_grid, "ts: not the start of a bucket of the interval"),
        *(check for name in ("open", "high", "low", "close") for check in _positive(name)),
        (
            (pl.col("high") >= pl.max_horizontal("open", "close", "low"))
            & (pl.col("low") <= pl.min_horizontal("open", "close")),
            "high, low: do not enclose open and close",
        ),
        (
            pl.col("volume").is_finite() & pl.col("volume").is_between(0, 1000 * LARGEST),
            "volume: must be >= 0",
        ),
        (pl.col("trade_count").fill_null(0) >= 0, "trade_count: must be >= 0"),
        (
            pl.col("vwap").fill_null(1.0).is_finite() & pl.col("vwap").fill_null(1.0).is_between(0, LARGEST),
            "vwap: must be >= 0",
        ),
        ((pl.col("vwap") * pl.col("volume")).fill_null(0) <= LARGEST_SUM, "volume: vwap x volume is absurdly large"),
    ]
    return _split(frame, fine, list(BARS))


def _with_symbol_upper(frame: pl.DataFrame) -> pl.DataFrame:
    # Few symbols make up many rows, so each is looked at once; most come in upper case.
    symbols = frame["symbol"].unique()
    if (symbols == symbols.str.to_uppercase()).all():
        return frame
    return frame.with_columns(pl.col("symbol").str.to_uppercase())


_SYMBOL_REASON: Final = "symbol: must be 1 to 16 of A-Z 0-9 . - / ^ =, beginning with a letter or digit"


def _symbol_is_fine(frame: pl.DataFrame) -> pl.Expr:
    symbols = frame["symbol"].unique()
    fine = symbols.filter(symbols.str.contains(SYMBOL).fill_null(value=False))
    return pl.lit(value=True) if len(fine) == len(symbols) else pl.col("symbol").is_in(fine.implode())


def _time_checks(latest: datetime) -> list[tuple[pl.Expr, str]]:
    return [
        (pl.col("ts").is_not_null(), "ts: missing"),
        (pl.col("ts") >= EARLIEST, "ts: before 1990"),
        (pl.col("ts") <= latest, "ts: in the future"),
    ]


def _positive(name: str) -> list[tuple[pl.Expr, str]]:
    value = pl.col(name)
    return [
        (
            value.is_finite() & (value > 0) & (value <= LARGEST),
            f"{name}: must be a number > 0 and <= {LARGEST:g}",
        )
    ]


def _text_check(frame: pl.DataFrame, name: str, length: int) -> tuple[pl.Expr, str]:
    """Optional texts are short and printable; a space may stand inside."""
    reason = f"{name}: must be 1 to {length} printable ASCII characters"
    if frame[name].null_count() == len(frame):
        return pl.lit(value=True), reason
    texts = frame[name].unique() if name in _REPEATED else frame[name]
    fine = texts.str.contains(rf"^[\x21-\x7e]([\x20-\x7e]{{0,{length - 2}}}[\x21-\x7e])?$").fill_null(value=True)
    if fine.all():
        return pl.lit(value=True), reason
    return pl.col(name).is_in(texts.filter(fine).implode(), nulls_equal=True), reason


def _split(frame: pl.DataFrame, fine: list[tuple[pl.Expr, str]], columns: list[str]) -> Validated:
    passed = pl.all_horizontal(condition.fill_null(value=False) for condition, _ in fine)
    if "problem" in frame.columns:
        passed &= pl.col("problem").is_null()
    good = frame.select(passed.alias("passed"))["passed"]
    if good.all():
        return Validated(frame.select(columns), _no_rejects())
    return Validated(frame.filter(good).select(columns), _rejects(frame, good, fine, columns))


def _no_rejects() -> pl.DataFrame:
    return pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String, "raw": pl.String})


def _rejects(frame: pl.DataFrame, good: pl.Series, fine: list[tuple[pl.Expr, str]], columns: list[str]) -> pl.DataFrame:
    reason = pl.coalesce(
        *([pl.col("problem")] if "problem" in frame.columns else []),
        *(pl.when(~condition.fill_null(value=False)).then(pl.lit(text)) for condition, text in fine),
    )
    raw = pl.struct(columns).struct.json_encode()
    if "raw" in frame.columns:
        raw = pl.coalesce("raw", raw)
    return (
        frame.with_columns(reason.alias("reason"), raw.str.slice(0, RAW_BYTES).alias("raw"))
        .with_row_index("row")
        .filter(~good)
        .select(pl.col("row").cast(pl.Int64), "reason", "raw")
    )
