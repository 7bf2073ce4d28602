"""Frames of records for the tests of the codecs: examples, and strategies of hypothesis."""

from datetime import UTC, datetime, timedelta

import polars as pl
from hypothesis import strategies as st

from stockpulse.journal.codecs import OHLCV, RECORDED_BARS, RECORDED_CORRECTIONS, RECORDED_TICKS, SIGNALS

NOON = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
TICK = {
    "symbol": "AAPL",
    "ts": NOON + timedelta(microseconds=123_456),
    "price": 189.72,
    "size": 100.0,
    "provider": "simulated",
    "exchange": "Q",
    "conditions": "@,I",
    "tape": "C",
    "trade_id": "1",
    "received_at": NOON + timedelta(microseconds=130_000),
    "flags": 7,
}
BAR = {
    "symbol": "AAPL",
    "interval": "1m",
    "ts": NOON,
    "open": 1.5,
    "high": 2.0,
    "low": 1.25,
    "close": 1.75,
    "volume": 100.0,
    "trade_count": 3,
    "vwap": 1.6,
    "provider": "tape",
    "received_at": NOON + timedelta(minutes=1),
}
OWN_BAR = {
    **{name: BAR[name] for name in ("symbol", "interval", "open", "high", "low", "close", "volume")},
    "timestamp": NOON,
    "trade_count": 3,
    "vwap": 1.6,
    "revision": 5,
    "final": True,
    "source": "live",
}
SIGNAL = {
    "symbol": "AAPL",
    "interval": "1m",
    "timestamp": NOON,
    "rule": "golden_cross",
    "signal": "BUY",
    "price": 189.72,
    "revision": 5,
}
ANALYTICS = pl.DataFrame(
    {
        "symbol": ["AAPL", "AAPL", "AAPL"],
        "interval": ["1m"] * 3,
        "timestamp": pl.Series([NOON] * 3, dtype=OHLCV["timestamp"]),
        "revision": [5, 6, 7],
        "sma_20": [0.1 + 0.2, float("nan"), None],
        "rsi_14": [50.0, float("inf"), None],
    }
)

MOMENTS = st.integers(0, 7_289_654_399_999_999).map(
    lambda count: datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=count)
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.sampled_from(
    ["AAPL", "BTC/USD", "simulated", "@,I", "null", "0", '"', "\\", "\n", "}", "é", "😀", '{"a":1}']
)
TEXTS = WORDS | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=256)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


def ticks(*rows):
    return pl.DataFrame(list(rows), schema=RECORDED_TICKS, orient="row")


def bars(*rows):
    return pl.DataFrame(list(rows), schema=RECORDED_BARS, orient="row")


def ohlcv(*rows):
    return pl.DataFrame(list(rows), schema=OHLCV, orient="row")


def signals(*rows):
    return pl.DataFrame(list(rows), schema=SIGNALS, orient="row")


def _frames(schema, required, **special):
    kinds = {pl.String: TEXTS, pl.Float64: NUMBERS, pl.Int64: INTEGERS, pl.Datetime: MOMENTS, pl.Boolean: st.booleans()}
    values = {name: special.get(name, kinds[type(dtype)]) for name, dtype in schema.items()}
    row = st.fixed_dictionaries({name: one if name in required else st.none() | one for name, one in values.items()})
    return st.lists(row, max_size=6).map(lambda rows: pl.DataFrame(rows, schema=schema, orient="row"))


PRICES = ("open", "high", "low", "close", "volume")
ANY_TICKS = _frames(RECORDED_TICKS, ("symbol", "ts", "price", "size"))
ANY_BARS = _frames(RECORDED_BARS, ("symbol", "interval", "ts", *PRICES))
ANY_CORRECTIONS = _frames(RECORDED_CORRECTIONS, ("symbol", "trade_id", "ts"))
ANY_OHLCV = _frames(OHLCV, ("symbol", "interval", "timestamp", *PRICES, "revision", "final", "source"))


def bits(frame):
    """Return the frame with floats as their 64 bits, so that -0.0 differs from 0.0."""
    return frame.with_columns(pl.selectors.float().reinterpret(signed=True))


def content(frame, schema):
    """Return the rows without a problem, in the columns of the schema."""
    assert frame["problem"].null_count() == frame["raw"].null_count()
    return frame.filter(pl.col("problem").is_null()).select(list(schema))


def kept_text(record):
    """Return the text of a record as dead letters keep it: of a long one the beginning, and the sign that it is cut."""
    record = record or b""
    kept = record if len(record) <= 8192 else record[: 8192 - len("…(cut)")]
    text = kept.decode("utf-8", "replace").replace("\0", "\ufffd")
    return text if kept is record else text + "…(cut)"


def places(decoded):
    """Return the input indexes of all decoded values: each must occur once."""
    return sorted(
        [
            *decoded.ticks["row"],
            *decoded.bars["row"],
            *decoded.corrections["row"],
            *(row for row, _ in decoded.ends),
            *(row for row, _ in decoded.forgets),
            *decoded.broken["row"],
        ]
    )
